"""Build the sdist and the wheel of quictunnel, as a release has them.

    python release/build.py --out dist --repository OWNER/NAME

A release differs from a clone in three places of the sources, which this script changes in a copy:

- The native engine is a dependency on the platforms that have wheels of it. In a clone it is not, because
  ``bootstrap.py`` builds it there, and because no index has it before the first release.
- The links of README.md are absolute, since an index shows it without the files that it names.
- ``project.urls`` name the repository.

The wheel is built from the sdist, so whatever it needs is in the sdist. Needs the package ``build``.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
MARKER: Final = (
    "platform_python_implementation == 'CPython' and ("
    "sys_platform == 'linux' and platform_machine == 'x86_64'"
    " or sys_platform == 'linux' and platform_machine == 'aarch64'"
    " or sys_platform == 'darwin' and platform_machine == 'x86_64'"
    " or sys_platform == 'darwin' and platform_machine == 'arm64'"
    " or sys_platform == 'win32' and platform_machine == 'AMD64')"
)
"""The platforms of ``.github/workflows/release.yml``. manylinux and musllinux have the same markers, and both have
wheels. On other platforms a dependency would make pip compile the engine, which fails without Rust."""
PAGES: Final = {
    "Documentation": "blob/{tag}/docs/index.md",
    "Changelog": "blob/{tag}/CHANGELOG.md",
    "Issues": "issues",
}
GENERATED: Final = (".git", ".venv", "__pycache__", "*.egg-info", "build", "dist", "target", "site", ".*_cache")
"""Names that are left out where git does not say what belongs to the project: in an unpacked sdist."""


def copy_sources(to: Path) -> None:
    """Copy the files of the project: those that git tracks, or all of an unpacked sdist."""
    if not (ROOT / ".git").exists():
        shutil.copytree(ROOT, to, ignore=shutil.ignore_patterns(*GENERATED))
        return
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():  # tracked, and removed since
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def with_native_dependency(pyproject: str) -> str:
    """Return pyproject.toml with the extra ``native`` among the dependencies, on the platforms with wheels."""
    (native,) = tomllib.loads(pyproject)["project"]["optional-dependencies"]["native"]
    line = f"    {json.dumps(f'{native}; {MARKER}')},\n"
    changed, count = re.subn(r"^dependencies = \[\n", lambda found: found[0] + line, pyproject, flags=re.MULTILINE)
    assert count == 1, "pyproject.toml has one list of dependencies"
    return changed


def with_urls(pyproject: str, base: str, tag: str) -> str:
    """Return pyproject.toml with the addresses of the repository and of its pages."""
    urls = {"Repository": base} | {name: f"{base}/{path.format(tag=tag)}" for name, path in PAGES.items()}
    table = "".join(f"{name} = {json.dumps(url)}\n" for name, url in urls.items())
    return pyproject.replace("[project.scripts]\n", f"[project.urls]\n{table}\n[project.scripts]\n", 1)


def with_absolute_links(readme: str, base: str, tag: str) -> str:
    """Return README.md with absolute links to files of the repository, and absolute addresses of its pictures."""

    def absolute(found: re.Match[str]) -> str:
        kind = "raw" if found[1] else "blob"
        return f"{found[1]}[{found[2]}]({base}/{kind}/{tag}/{found[3]})"

    linked = re.sub(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)", absolute, readme)
    return re.sub(
        r'(src|srcset)="(?!https?:)([^"\s]+)"', lambda found: f'{found[1]}="{base}/raw/{tag}/{found[2]}"', linked
    )


def prepare(tree: Path, repository: str, *, has_native: bool) -> None:
    """Change the copy of the sources into those of a release."""
    version = re.search(
        r'^VERSION: Final = "(.+)"$', (tree / "quictunnel/shared/version.py").read_text(), re.MULTILINE
    )
    assert version is not None
    base, tag = f"https://github.com/{repository}", f"v{version[1]}"
    pyproject, readme = tree / "pyproject.toml", tree / "README.md"
    if has_native:
        pyproject.write_text(with_native_dependency(pyproject.read_text()))
    if repository:
        pyproject.write_text(with_urls(pyproject.read_text(), base, tag))
        readme.write_text(with_absolute_links(readme.read_text(), base, tag))


def main() -> None:
    """Build the files and print their paths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("dist"), metavar="DIR", help="directory of the files")
    parser.add_argument("--repository", default="", metavar="OWNER/NAME", help="where the links lead")
    parser.add_argument("--without-native", action="store_true", help="do not depend on the native engine")
    parser.add_argument("--installer", choices=("pip", "uv"), default="pip", help="what sets up the build")
    options = parser.parse_args()
    out = options.out.resolve()
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory, "quictunnel")
        copy_sources(tree)
        prepare(tree, options.repository, has_native=not options.without_native)
        build = [sys.executable, "-m", "build", "--installer", options.installer, "--outdir", str(out), str(tree)]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    print(*sorted(out.glob("quictunnel-*")), sep="\n")


if __name__ == "__main__":
    main()
