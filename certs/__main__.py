"""``python -m certs``: create the development authority and the two leaf certificates that an edge needs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_server.certificates.authority import DevelopmentAuthority
from quictunnel.errors import Error
from quictunnel.shared import output
from quictunnel.shared.files import PUBLIC, replace_file

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1")

_DESCRIPTION: Final = """\
Create (or reuse) a development certificate authority, and issue with it

  wildcard.pem, wildcard.key   for *.DOMAIN and DOMAIN: the certificate for HTTPS visitors of the edge
  quic.pem, quic.key           for localhost, 127.0.0.1, ::1 and the NAMES given: the edge's QUIC endpoint

An edge without arguments does this itself. Use this command to manage the files yourself."""

_EPILOG: Final = """\
How to trust it (only on your own machines; ca.key must never leave its directory):

  curl       curl --cacert OUT/ca.pem https://NAME.DOMAIN:8443/
  Python     ssl.create_default_context(cafile="OUT/ca.pem"), or SSL_CERT_FILE=OUT/ca.pem
             httpx: verify=that context; requests: REQUESTS_CA_BUNDLE=OUT/ca.pem
  Chromium   Linux: certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n quictunnel-dev -i OUT/ca.pem
             or chrome://certificate-manager, "Installed by you", Import
  a tunnel   QUICTUNNEL_CA=OUT/ca.pem

To use the files: python -m edge_server --cert OUT/wildcard.pem --key OUT/wildcard.key
To start over: remove OUT; all clients that trusted the old ca.pem must then trust the new one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Return the exit status: 0, or 2 with one line on standard error."""
    return output.run(lambda: _main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    try:
        written = write_all(options.out, options.domain, options.names)
    except (Error, OSError) as error:
        print(f"certs: {error}", file=sys.stderr)
        return 2
    print(*written, sep="\n")
    return 0


def write_all(out: Path, domain: str, names: Sequence[str] = ()) -> list[Path]:
    """Write the authority and new leaf certificates to ``out``. Return the paths of the files; the first is the
    one to trust. Raises Error and OSError."""
    authority = DevelopmentAuthority.load_or_create(out)
    written = [authority.certificate]
    for stem, covered in (("wildcard", (f"*.{domain}", domain)), ("quic", (*_LOCAL_NAMES, *names))):
        chain, key = authority.issue(covered)
        replace_file(out / f"{stem}.pem", chain, mode=PUBLIC)
        replace_file(out / f"{stem}.key", key)
        written += [out / f"{stem}.pem", out / f"{stem}.key"]
    return written


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m certs",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("dev-certs"),
        metavar="DIR",
        help="directory of the files (%(default)s, in the current directory)",
    )
    parser.add_argument("--domain", default="tunnel.localhost", help="the edge's domain (%(default)s)")
    parser.add_argument("names", nargs="*", metavar="NAME", help="further names or addresses of the QUIC endpoint")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
