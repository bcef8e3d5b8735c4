"""Sources of options other than the command line: the environment and a TOML file.

Names are checked here, values by the option's type. All problems are collected and reported together.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from edge_server.config.option_table import PREFIX, Option
from edge_server.config.option_types import OptionValue
from edge_server.config.program_name import usage_name
from edge_server.config.toml_lines import lines_of
from quictunnel.errors import ConfigError
from quictunnel.shared.address import short_repr

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

CONFIG: Final = PREFIX + "CONFIG"
"""Environment variable with the path of the file, used without ``--config``."""
MAX_CONFIG: Final = 64 * 1024
"""Bytes of a configuration file; usual ones have a few hundred."""
MAX_PROBLEMS: Final = 50
"""Reported problems; a file with more is most likely no configuration."""


@dataclass(slots=True)
class ParsedOptions:
    """The values by field, and the problems. A value that is added later replaces an earlier one."""

    values: dict[str, OptionValue] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def from_environment(options: Sequence[Option], environ: Mapping[str, str], parsed: ParsedOptions) -> None:
    """Add the values of environment variables that are set and not empty.

    Args:
        options: the table.
        environ: environment variables; those without the prefix are ignored, unknown ones with it are problems.
        parsed: gets the values and problems.
    """
    by_variable = {option.variable: option for option in options}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable == CONFIG or not value:
            continue
        if option := by_variable.get(variable):
            parsed.values[option.field] = OptionValue(value, variable)
        else:
            suggestion = hint(variable, [*by_variable, CONFIG])
            parsed.problems.append(f"The environment has an unknown variable {short_repr(variable)}; {suggestion}")


def from_file(options: Sequence[Option], path: Path, parsed: ParsedOptions) -> None:
    """Add the values of a TOML file.

    Args:
        options: the table of options. In TOML, a table may replace the first word of a name: ``[log]`` with
            ``format`` is ``log-format``.
        path: the file. Relative paths in it are relative to its directory.
        parsed: gets the values and problems.
    """
    try:
        text = _text(path)
        content = _content(path, text)
    except ConfigError as error:
        parsed.problems.append(str(error))
        return
    lines = lines_of(text)
    by_name = {name: option for option in options for name in (option.alias, option.name) if name}
    groups = {name.partition("-")[0] for name in by_name if "-" in name}
    pairs: list[tuple[tuple[str, ...], Any]] = []
    for key, value in content.items():
        is_group = key in groups and isinstance(value, dict)
        pairs += [((key, inner), value[inner]) for inner in value] if is_group else [((key,), value)]
    for keys, value in pairs:
        name, key = "-".join(keys).replace("_", "-"), ".".join(keys)
        line = lines.get(keys)
        where = f"{path}:{line}: " if line else f"{path}: "
        option = by_name.get(name)
        if option is None:
            known = [other for other in by_name if len(keys) == 1 or other.startswith(keys[0] + "-")]
            parsed.problems.append(f"{where}unknown name {short_repr(key)}; {hint(name, known, keys)}")
        elif option.field in parsed.values:
            parsed.problems.append(f"{where}{option.name} is given twice ({parsed.values[option.field].what}).")
        else:
            is_relative = option.kind.is_path and isinstance(value, str) and value and value[0] != "~"
            parsed.values[option.field] = OptionValue(
                str(path.parent / value) if is_relative else value, where + key, is_toml=True
            )


def _text(path: Path) -> str:
    """Return the text of a file. Raises ConfigError, with the line number if the text is not UTF-8."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONFIG + 1)
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {error.strerror}.") from None
    if len(content) > MAX_CONFIG:
        raise ConfigError(f"--config {path}: larger than {MAX_CONFIG} bytes; is this the right file?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not valid TOML: the text is not UTF-8.") from None


def _content(path: Path, text: str) -> dict[str, Any]:
    """Return the parsed text of a file. Raises ConfigError with the line number of a syntax error."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply for a configuration; is this the right file?") from None
    except ValueError as error:  # TOMLDecodeError, or a number of too many digits
        message = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(error))
    if place := re.search(r" \(at line ([0-9]+), column ([0-9]+)\)$", message):
        raise ConfigError(
            f"{path}:{place[1]}: not valid TOML: {message[: place.start()][:200]} (column {place[2]})."
        )
    last = text.count("\n") + (not text.endswith("\n"))
    raise ConfigError(f"{path}:{last}: not valid TOML: {message.removesuffix(' (at end of document)')[:200]}.")


def hint(name: str, known: Iterable[str], keys: tuple[str, ...] = ("",)) -> str:
    """Return advice about an unknown name. ``keys``: its path in a file."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    if not close:
        return f"docs/CONFIGURATION.md and {usage_name()} --help list the options."
    found = close[0] if len(keys) == 1 else ".".join((keys[0], close[0].removeprefix(keys[0] + "-")))
    return f'did you mean "{found}"?'
