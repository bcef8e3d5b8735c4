"""What MkDocs is told besides mkdocs.yml: the page of the command line, made from the table that its parser is
made from, and a place in the navigation for pages that have none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mkdocs.structure.files import File

from quictunnel.cli import grammar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

COMMAND_LINE: Final = "reference/command-line.md"
OTHERS: Final = "More"
OTHER_PROGRAMS: Final = (
    "`python -m edge_server --help` and `python -m certs --help` are other programs: see [an edge of your own]"
    "(../tutorial/edge-of-your-own.md) and [operations](../OPERATIONS.md)."
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Pages that stand nowhere in the navigation come last."""
    assert config.nav is not None
    named = set(_pages(config.nav))
    root = Path(config.docs_dir)
    others = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.md"))
    rest: list[Any] = [page for page in others if page not in named]
    if rest:
        config.nav.append({OTHERS: rest})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The page that is made."""
    files.append(File.generated(config, COMMAND_LINE, content=command_line()))
    return files


def command_line() -> str:
    """Every command with its arguments, options and examples, as Markdown."""
    parts = [
        "# The command line",
        grammar.DESCRIPTION,
        OTHER_PROGRAMS,
        _block(f"usage: quictunnel COMMAND ...\n\n{grammar.EPILOG}"),
    ]
    for command in grammar.COMMANDS:
        parts += [f"## quictunnel {command.name} {{ #{command.name} }}", command.description]
        rows = [(f"`{argument.name}`", argument.summary) for argument in command.arguments]
        rows += [(_shown(option), _summary(option)) for option in command.options]
        parts += [_table(("argument or option", "meaning"), rows)] if rows else []
        parts += [_block(text) for text in (command.examples, grammar.EXPLAINED.get(command.name, "")) if text]
    return "\n\n".join(parts) + "\n"


def _pages(nav: Sequence[Any]) -> Iterator[str]:
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        else:
            for below in entry.values():
                yield from [below] if isinstance(below, str) else _pages(below)


def _shown(option: grammar.Option) -> str:
    return f"`{option.flag} {option.metavar}`" if option.metavar else f"`{option.flag}`"


def _summary(option: grammar.Option) -> str:
    said = option.summary
    if option.choices:
        said += f": {', '.join(option.choices)}"
    return f"{said} (default: {option.default})" if option.default else said


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


def _block(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"
