"""The table of options: what :class:`edge_server.config.edge_config.EdgeConfig` says of each of its fields, and
who reads it.

From it come the command line, the names in TOML, the variables of the environment, what SIGHUP may change, and
``docs/CONFIGURATION.md`` with its schema.
"""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

if TYPE_CHECKING:
    from edge_server.config.option_types import OptionType

T = TypeVar("T")

PREFIX: Final = "QUICTUNNEL_EDGE_SERVER_"
"""Of the variables; those of clients begin otherwise (QUICTUNNEL_EDGE is one of theirs)."""
_KEY: Final = "option"


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table."""

    field: str
    """Of EdgeConfig."""
    kind: OptionType[Any]
    summary: str
    default: str
    """As the documents say it."""
    group: str
    live: bool
    """SIGHUP changes it; what is not live needs a restart, or SIGUSR2."""
    alias: str
    """Another name in TOML: that of a table and a name in it, joined by ``-``."""
    fallback: str
    """A variable that is asked when nobody else says anything."""

    @property
    def name(self) -> str:
        """In TOML."""
        return self.field.replace("_", "-")

    @property
    def flag(self) -> str:
        return "--" + self.name

    @property
    def variable(self) -> str:
        return PREFIX + self.field.upper()


def option(
    kind: OptionType[T],
    summary: str,
    *,
    default: T | None = None,
    required: bool = False,
    shown: str | None = None,
    group: str = "",
    live: bool = False,
    alias: str = "",
    fallback: str = "",
) -> T:
    """A field of EdgeConfig that is an option, in the manner of :func:`dataclasses.field`.

    ``shown`` is what the documents call the default where its text does not say it; ``required``: who makes an
    EdgeConfig in code has to say it. The rest as in :class:`Option`."""
    if shown is None:
        shown = "" if default is None else kind.show(default)
    row = Option("", kind, summary, shown, group, live, alias, fallback)
    made: Any = dataclasses.field(default=MISSING if required else default, metadata={_KEY: row})
    return cast("T", made)


def options_of(config: type[Any]) -> tuple[Option, ...]:
    """The rows, in the order of the fields."""
    return tuple(
        dataclasses.replace(field.metadata[_KEY], field=field.name)
        for field in dataclasses.fields(config)
        if _KEY in field.metadata
    )
