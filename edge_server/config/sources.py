"""Sources of the options: the command line, over the environment, over a TOML file.

Only names are checked here. Every problem is kept, so that all of them are told at once.
"""

from __future__ import annotations

import argparse
import difflib
import re
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from edge_server.config.option_table import PREFIX, Option
from edge_server.config.toml_lines import lines_of
from quictunnel.errors import ConfigError
from quictunnel.shared.address import shown
from quictunnel.shared.paths import expanded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

CONFIG: Final = PREFIX + "CONFIG"
"""The variable that names the file, where ``--config`` does not."""
MAX_CONFIG: Final = 64 * 1024
"""Bytes of a configuration file; a real one has a few hundred."""
MAX_PROBLEMS: Final = 50
"""Problems that are said; a file with more of them is not a configuration."""


@dataclass(frozen=True, slots=True)
class OptionValue:
    """A value as it was given, and by whom."""

    value: object
    what: str
    """Beginning of an error about it."""
    is_toml: bool = False
    base: Path | None = None
    """Directory that a path is relative to; None: the working directory."""

    def read(self, option: Option) -> Any:
        """Return the value in the option's type. Raises ConfigError."""
        kind = option.kind
        value = self.value
        if self.base is not None and kind.is_path and isinstance(value, str) and value:
            value = str(self.base / expanded(value, self.what))
        return kind.from_toml(value, self.what) if self.is_toml else kind.read(str(value), self.what)


@dataclass(slots=True)
class ParsedOptions:
    """The values that were given, by field, and the problems with them."""

    given: dict[str, OptionValue] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def object_to(self, problem: str) -> None:
        """Keep a problem."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)


def from_command_line(arguments: Mapping[str, object]) -> dict[str, OptionValue]:
    """Return the values that argparse has found."""
    return {
        name: OptionValue("true" if value is True else value, "--" + name.replace("_", "-"))
        for name, value in arguments.items()
    }


def from_environment(options: Iterable[Option], environ: Mapping[str, str], said: ParsedOptions) -> None:
    """Add the values of variables that are set and not empty."""
    by_variable = {option.variable: option for option in options}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable == CONFIG or not value:
            continue
        option = by_variable.get(variable)
        if option is None:
            hint = _hint(variable, [*by_variable, CONFIG])
            said.object_to(f"The environment has an unknown variable {shown(variable)}; {hint}")
        else:
            said.given[option.field] = OptionValue(value, variable)


def from_file(options: Sequence[Option], path: Path, said: ParsedOptions) -> None:
    """Add the values of a TOML file.

    A table may stand for the first words of a name: ``[log]`` with ``format`` is ``log-format``.
    """
    try:
        text = _text(path)
        content = tomllib.loads(text)
    except ConfigError as error:
        said.object_to(str(error))
        return
    except RecursionError:
        said.object_to(f"{path}: nested too deeply for a configuration; is this the right file?")
        return
    except tomllib.TOMLDecodeError as error:
        said.object_to(_syntax(path, text, str(error)))
        return
    lines = lines_of(text)
    by_name = {name: option for option in options for name in (option.alias, option.name) if name}
    groups = {name.partition("-")[0] for name in by_name if "-" in name}

    def take(keys: tuple[str, ...], value: object) -> None:
        line = lines.get(keys) or lines[keys[:1]]  # of the whole, where it is an inline table
        name = "-".join(keys).replace("_", "-")
        option = by_name.get(name)
        if len(keys) == 1 and name in groups and isinstance(value, dict):
            for key, inner in value.items():
                take((*keys, key), inner)
        elif option is None:
            here = ".".join(keys)
            known = [other for other in by_name if len(keys) == 1 or other.startswith(keys[0] + "-")]
            said.object_to(f"{path}:{line}: unknown name {shown(here)}; {_hint(name, known, keys)}")
        elif option.field in said.given:
            said.object_to(f"{path}:{line}: {option.name} is said twice ({said.given[option.field].what}).")
        else:
            said.given[option.field] = OptionValue(value, f"{path}:{line}: {'.'.join(keys)}", True, path.parent)

    for key, value in content.items():
        take((key,), value)


def _text(path: Path) -> str:
    """Raises ConfigError."""
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
        raise ConfigError(f"{path}:{line}: not valid TOML: this is not UTF-8.") from None


def _syntax(path: Path, text: str, message: str) -> str:
    """An error of tomllib's, with its place where places stand."""
    place = re.search(r" \(at line ([0-9]+), column ([0-9]+)\)$", message)
    if place:
        return f"{path}:{place[1]}: not valid TOML: {shown_words(message[: place.start()])} (column {place[2]})."
    last = text.count("\n") + (not text.endswith("\n"))
    return f"{path}:{last}: not valid TOML: {shown_words(message.removesuffix(' (at end of document)'))}."


def shown_words(text: str) -> str:
    """Words of somebody else's, as one printable line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)[:200]


def _hint(name: str, known: Iterable[str], keys: tuple[str, ...] = ("",)) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    if not close:
        return "docs/CONFIGURATION.md and python -m edge_server --help list what there is."
    found = close[0] if len(keys) == 1 else ".".join((keys[0], close[0].removeprefix(keys[0] + "-")))
    return f'did you mean "{found}"?'


def build_parser(
    options: Sequence[Option], add_more: Callable[[argparse.ArgumentParser], None], **about: Any
) -> argparse.ArgumentParser:
    """The command line's."""
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS, allow_abbrev=False, **about)
    groups: dict[str, argparse._ArgumentGroup] = {}
    for option in options:
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        default = f" (default: {option.default})" if option.default and option.kind.metavar else ""
        text = (option.summary + default).replace("%", "%%")
        add = groups[option.group].add_argument
        if option.kind.metavar:
            # argparse shows the choices where there is no other name for them
            choices = option.kind.choices or None
            add(option.flag, metavar=None if choices else option.kind.metavar, choices=choices, help=text)
        else:
            add(option.flag, action="store_true", help=text)
    add_more(parser)
    return parser
