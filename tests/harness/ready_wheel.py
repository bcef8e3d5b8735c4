"""A build backend that makes a wheel of this source tree in a moment, without a network.

A tree with it can be installed by ``pip install '.[edge]'`` as the real one can. The wheel brings the packages,
the version and the commands of the tree. Its dependencies are those of the tests, by a ``.pth`` file.
"""

from __future__ import annotations

import tomllib
import zipfile
from pathlib import Path

PACKAGES = ("quictunnel", "edge_server")
DEPENDENCIES = "/opt/packages"
"""The directory of site-packages that the installed programs may also import from."""


def build_wheel(wheel_directory: str, *_: object) -> str:
    """Write the wheel and return its name (PEP 517)."""
    names: dict[str, object] = {}
    exec(Path("quictunnel/shared/version.py").read_text(), names)
    version = names["VERSION"]
    project = tomllib.loads(Path("project.toml").read_text())["project"]
    scripts = "".join(f"{name} = {entry}\n" for name, entry in project.get("scripts", {}).items())
    info = f"quictunnel-{version}.dist-info"
    name = f"quictunnel-{version}-py3-none-any.whl"
    about = f"Metadata-Version: 2.1\nName: quictunnel\nVersion: {version}\nProvides-Extra: edge\n"
    files = {
        "quictunnel-dependencies.pth": DEPENDENCIES + "\n",
        f"{info}/METADATA": about,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: ready_wheel\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{scripts}",
    }
    with zipfile.ZipFile(Path(wheel_directory) / name, "w") as wheel:
        for package in PACKAGES:
            for path in sorted(Path(package).rglob("*")):
                if path.is_file():
                    wheel.write(path, path.as_posix())
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in [*wheel.namelist(), f"{info}/RECORD"]))
    return name
