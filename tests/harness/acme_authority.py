"""A certificate authority for tests of whole machines."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edge_server.certificates.authority import DevelopmentAuthority
from tests.harness.programs import need

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.harness.netns import NetworkNamespace
    from tests.harness.systemd_machine import SystemdMachine


@contextmanager
def certificate_authority(namespace: NetworkNamespace | SystemdMachine, base: Path) -> Iterator[None]:
    """Run Debian's pebble at https://localhost:14000/dir, in the place of Let's Encrypt. It validates on ports 443
    and 80. ``base/web/ca.pem`` signs its own certificate, ``base/roots.pem`` those that it issues."""
    web = base / "web"
    authority = DevelopmentAuthority.load_or_create(web)
    chain, key = authority.issue(["localhost", "127.0.0.1"])
    (web / "web.pem").write_bytes(chain)
    (web / "web.key").write_bytes(key)
    config = {
        "listenAddress": "127.0.0.1:14000",
        "managementListenAddress": "127.0.0.1:15000",
        "certificate": str(web / "web.pem"),
        "privateKey": str(web / "web.key"),
        "httpPort": 80,
        "tlsPort": 443,
        "ocspResponderURL": "",
    }
    (web / "pebble.json").write_text(json.dumps({"pebble": config}))
    command = [*namespace.enter, need("pebble"), "-config", str(web / "pebble.json")]
    with (web / "pebble.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"PEBBLE_VA_NOSLEEP": "1"})
    try:
        patient = ("--retry", "60", "--retry-delay", "1", "--retry-connrefused", "--silent", "--show-error")
        roots = namespace.run("curl", *patient, "--cacert", str(web / "ca.pem"), "https://localhost:15000/roots/0")
        assert roots.stdout.startswith(b"-----BEGIN"), roots.stderr
        (base / "roots.pem").write_bytes(roots.stdout)
        yield
    finally:
        process.terminate()
        process.wait(20)
