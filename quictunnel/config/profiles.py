"""The edges that ``quictunnel login`` has stored: a private file with a credential for each profile.

They are in the folder ``profiles`` beside the user's config file. A profile is complete: nothing of the
environment is merged into it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from quictunnel.config.credential import Credential, decode
from quictunnel.config.files import read_private_line
from quictunnel.errors import ConfigError
from quictunnel.shared.address import short_repr
from quictunnel.shared.files import make_directory, replace_file
from quictunnel.shared.paths import default_config_file

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT: Final = "default"
"""Name of the profile that is used without a name."""
MAX_PROFILES: Final = 100
"""Profiles of one user: a person has a handful of edges, and a listing reads all of them."""
SUFFIX: Final = ".credential"

# Lower-case, because some file systems do not distinguish case.
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,30}[a-z0-9])?")


class Profiles:
    """The profiles of one user, in one folder. Its methods raise ConfigError."""

    def __init__(self, directory: Path | None = None) -> None:
        """Choose the folder; None: that of this user. Raises ConfigError if the user has no home directory."""
        self.directory = default_config_file().parent / "profiles" if directory is None else directory

    def path_of(self, name: str) -> Path:
        """Return the file of a profile. Raises ConfigError for a name that is not allowed."""
        if not _NAME.fullmatch(name):
            raise ConfigError(
                "The name of a profile has 1 to 32 lower-case letters, digits, dots and dashes, not "
                f"{short_repr(name)}."
            )
        return self.directory / f"{name}{SUFFIX}"

    def read(self, name: str) -> Credential | None:
        """Return the credential of a profile, or None if there is no such profile."""
        path = self.path_of(name)
        text = read_private_line(path)
        return None if text is None else decode(text, what=f"The credential in {path}")

    def write(self, name: str, credential: Credential) -> Path:
        """Store a profile, or replace it. Return its file."""
        path = self.path_of(name)
        names = self.names()
        if name not in names and len(names) >= MAX_PROFILES:
            raise ConfigError(f"There are {MAX_PROFILES} profiles already: remove one with `quictunnel logout`.")
        try:
            make_directory(self.directory)
            replace_file(path, f"{credential.encode()}\n".encode())
        except OSError as error:
            raise ConfigError(f"{path} cannot be written ({error.strerror}).") from None
        return path

    def remove(self, name: str) -> bool:
        """Remove a profile. Return False if there was none."""
        path = self.path_of(name)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise ConfigError(f"{path} cannot be removed ({error.strerror}).") from None
        return True

    def names(self) -> list[str]:
        """Return the names of all profiles, sorted."""
        try:
            found = [path.name.removesuffix(SUFFIX) for path in self.directory.glob(f"*{SUFFIX}")]
        except OSError as error:
            raise ConfigError(f"{self.directory} cannot be read ({error.strerror}).") from None
        return sorted(name for name in found if _NAME.fullmatch(name))
