"""The table of options, made from the fields of :class:`edge_server.config.edge_config.EdgeConfig`.

The command line, the names in TOML, the environment variables, the reload, and ``docs/CONFIGURATION.md`` with its
schema are derived from it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

if TYPE_CHECKING:
    from edge_server.config.option_types import OptionType

T = TypeVar("T")

PREFIX: Final = "QUICTUNNEL_EDGE_SERVER_"
"""Prefix of the edge's variables. Those of clients have another one, as in QUICTUNNEL_EDGE."""
_KEY: Final = "option"


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table."""

    field: str
    """Name of the field of EdgeConfig."""
    kind: OptionType[Any]
    summary: str
    default: str
    """Text of the default in documents and help."""
    group: str
    live: bool
    """True if SIGHUP changes it; other options need a restart, or SIGUSR2."""
    alias: str
    """Alternative name in TOML: the name of a table and of a key in it, joined by ``-``."""
    fallback: str
    """Environment variable that is read if no source gives a value."""

    @property
    def name(self) -> str:
        """Return the name in TOML."""
        return self.field.replace("_", "-")

    @property
    def flag(self) -> str:
        """Return the flag of the command line."""
        return "--" + self.name

    @property
    def variable(self) -> str:
        """Return the name of the environment variable."""
        return PREFIX + self.field.upper()


def option(
    kind: OptionType[T],
    summary: str,
    default: T | None = None,
    *,
    required: bool = False,
    default_text: str | None = None,
    group: str = "",
    live: bool = False,
    alias: str = "",
    fallback: str = "",
) -> T:
    """Return a field of EdgeConfig that is an option, in the manner of :func:`dataclasses.field`.

    Args:
        kind: the type.
        summary: the meaning, for ``--help`` and the documents.
        default: the default.
        required: True if an EdgeConfig made in code needs a value.
        default_text: text of the default in documents and help, if it is not the default's own.
        group: the heading, for the first option below it.
        live: as in :class:`Option`; so are ``alias`` and ``fallback``.
    """
    if default_text is None:
        default_text = "" if default is None else kind.show(default)
    row = Option("", kind, summary, default_text, group, live, alias, fallback)
    made: Any = dataclasses.field(default=MISSING if required else default, metadata={_KEY: row})
    return cast("T", made)


def options_of(config: type[Any]) -> tuple[Option, ...]:
    """Return the options of a configuration class, in the order of its fields."""
    rows: list[Option] = []
    for field in dataclasses.fields(config):
        row: Option = field.metadata[_KEY]
        rows.append(dataclasses.replace(row, field=field.name, group=row.group or rows[-1].group))
    return tuple(rows)
