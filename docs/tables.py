"""Generate the tables of the documents, as Markdown, from the code.

``python docs/tables.py`` prints them. ``--write docs/PROTOCOL.md`` (or ``ADMIN.md``, ``CONFIGURATION.md``,
``METRICS.md``) updates them in the document, and ``--schema docs/edge.schema.json`` the JSON Schema of the edge's
configuration. Pages that show a file of ``docs/examples`` are updated in the same way. A test fails when a page is
out of date.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import runpy
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

import click
import msgspec.inspect

from edge_server.admin.operations import OPERATIONS
from edge_server.config.edge_config import OPTIONS
from edge_server.observability.metrics import METRICS, PREFIX, PROCESS_METRICS, MetricInfo
from quictunnel.cli.main import COMMANDS, PROGRAM
from quictunnel.cli.main import commands as client_commands
from quictunnel.wire import credit, framing, messages, preface
from quictunnel.wire.codes import ALPN, PROTOCOL_VERSION, BindCode, SessionCode, StreamCode
from quictunnel.wire.control_state import TRANSITIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

DOCS: Final = Path(__file__).parent


def message_table() -> str:
    """Return a table of the messages, and a list of the fields of each, in order."""
    rows, lists = [], []
    for kind in sorted(get_args(messages.AnyMessage), key=_tag):
        senders = {side.value for _, side, sent in TRANSITIONS if sent is kind}
        rows.append((str(_tag(kind)), kind.__name__, " and ".join(sorted(senders)), _summary(kind)))
        fields = ", ".join(f"`{name}` ({_type(field)})" for name, field in _fields(kind))
        lists.append(f"- **{kind.__name__}**: {fields}.")
    table = _table(("number", "message", "sent by", "meaning"), rows)
    return "\n\n".join((table, "The fields of each message, in order:", "\n".join(lists)))


def field_notes() -> str:
    """Return the meanings of the fields whose names do not say it."""
    rows = [
        (f"{kind.__name__}.{name}", _type(field), note)
        for kind in (*sorted(get_args(messages.AnyMessage), key=_tag), preface.Preface)
        for name, field in _fields(kind)
        if (note := _attribute_notes(kind).get(name))
    ]
    return _table(("field", "type", "meaning"), rows)


def preface_table() -> str:
    """Return the fields of a preface, in order."""
    notes = _attribute_notes(preface.Preface)
    rows = [(name, _type(field), notes.get(name, "")) for name, field in _fields(preface.Preface)]
    return _table(("field", "type", "meaning"), rows)


def transition_table() -> str:
    """Return the transitions of the control protocol: who may send which message in which phase."""
    rows = [
        (phase.value, side.value, kind.__name__, after.value) for (phase, side, kind), after in TRANSITIONS.items()
    ]
    return _table(("phase", "sender", "may send", "next phase"), rows)


def code_tables() -> str:
    """Return a table for each kind of code: stream, session and bind."""
    parts = []
    for codes in (StreamCode, SessionCode, BindCode):
        notes = _attribute_notes(codes)
        rows = [(f"0x{code.value:02x}", code.name, notes[code.name]) for code in codes]
        parts.append(f"**{codes.__name__}**. {_summary(codes)}\n\n{_table(('code', 'name', 'meaning'), rows)}")
    return "\n\n".join(parts)


def constants_table() -> str:
    """Return the constants that both sides must know."""
    rows = [
        ("ALPN", f"`{ALPN}`"),
        ("protocol version", str(PROTOCOL_VERSION)),
        ("largest control message", f"{messages.MAX_MESSAGE:,} bytes"),
        ("length of a control frame's header", f"{framing.HEADER_SIZE} bytes"),
        ("largest preface", f"{preface.MAX_PREFACE} bytes"),
        ("initial window of a stream (ours)", f"{credit.INITIAL_WINDOW:,} bytes"),
        ("largest window of a stream", f"{messages.MAX_WINDOW:,} bytes"),
        ("entries of one Credits", f"1 to {messages.MAX_CREDITS}"),
        ("entries of one ResumeState", f"0 to {messages.MAX_RESUME_ENTRIES}"),
        ("bytes of a session's secret", f"{messages.SECRET_SIZE}"),
    ]
    return _table(("what", "value"), rows)


def options_table() -> str:
    """Return a table of the edge's options for each group."""
    parts = []
    for group in dict.fromkeys(row.group for row in OPTIONS):
        rows = [
            (
                f"`{row.name}`" + (f", `{row.alias}`" if row.alias else ""),
                row.kind.words,
                row.default if " " in row.default else row.default and f"`{row.default}`",
                "yes" if row.live else "no",
                row.summary,
            )
            for row in OPTIONS
            if row.group == group
        ]
        head = ("name", "value", "default", "on SIGHUP", "meaning")
        parts.append(f"**{group[0].upper()}{group[1:]}**\n\n{_table(head, rows)}")
    return "\n\n".join(parts)


def schema() -> str:
    """Return the JSON Schema of a configuration file, for editors."""
    properties: dict[str, object] = {}
    for row in OPTIONS:
        limits = {"pattern": row.kind.pattern, "enum": list(row.kind.choices)}
        about = row.kind.schema | {name: limit for name, limit in limits.items() if limit}
        about["description"] = row.summary
        for name in filter(None, (row.name, row.alias)):
            properties[name] = about
    groups: dict[str, dict[str, object]] = {}
    for name, about in properties.items():
        group, dash, rest = name.partition("-")
        if dash:
            groups.setdefault(group, {})[rest] = about
    for group, inner in groups.items():
        table = {"type": "object", "properties": inner, "additionalProperties": False}
        properties[group] = {"anyOf": [properties[group], table]} if group in properties else table
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of a quictunnel edge",
        "type": "object",
        "properties": properties,
        "patternProperties": {
            f"^{name.replace('-', '[-_]')}$": about for name, about in properties.items() if "-" in name
        },
        "additionalProperties": False,
    }
    return json.dumps(whole, indent=1) + "\n"


def metric_table() -> str:
    """Return the metrics of an edge, with their labels."""
    return _table(("name", "kind", "labels", "meaning"), _metric_rows(PREFIX, METRICS))


def process_table() -> str:
    """Return the metrics that prometheus-client adds."""
    return _table(("name", "kind", "labels", "meaning"), _metric_rows("", PROCESS_METRICS))


def operations_table() -> str:
    """Return the operations of the operator's API."""
    rows = [
        (
            f"`{operation.method.upper()} {operation.path}`",
            operation.summary,
            ", ".join(f"`{parameter.name}`" for parameter in operation.parameters),
        )
        for operation in OPERATIONS
    ]
    return _table(("request", "answer, or effect", "parameters"), rows)


def commands_table() -> str:
    """Return every command of ``quictunnel`` with its arguments, options and examples."""
    program = client_commands.make_context(PROGRAM, [])
    usage = f"{client_commands.get_usage(program)}\n\n{client_commands.epilog}"
    parts = [client_commands.help or "", OTHER_PROGRAMS, _block(usage)]
    for name in COMMANDS:
        command = client_commands.load(name)
        context = click.Context(command, program, name)
        parts += [f"## quictunnel {name}", command.help or ""]
        records = [each.get_help_record(context) for each in command.params if each.help]
        rows = [(f"`{record[0].replace('|', ', ')}`", record[1]) for record in records if record is not None]
        parts += [_table(("argument or option", "meaning"), rows)] if rows else []
        parts += [_block(command.epilog or "")]
    return "\n\n".join(parts)


def _block(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"


def _metric_rows(prefix: str, metrics: Mapping[str, MetricInfo]) -> list[tuple[str, str, str, str]]:
    return [
        (
            f"`{prefix}{name}`",
            metric.kind,
            _labels(metric),
            metric.description,
        )
        for name, metric in metrics.items()
    ]


def _labels(metric: MetricInfo) -> str:
    named = metric.labels.items()
    return "; ".join(f"`{name}`: {', '.join(values)}" if values else f"`{name}`" for name, values in named)


HELP_PAGES: Final = ("command-line.md", "CONFIGURATION.md")
OTHER_PROGRAMS: Final = (
    "`quictunnel-edge --help` and `python -m certs --help` are other programs: see [an edge of your own]"
    "(../tutorial/edge-of-your-own.md) and [how to run an edge](../OPERATIONS.md)."
)
TABLES: Final[dict[str, Callable[[], str]]] = {
    "constants": constants_table,
    "messages": message_table,
    "fields": field_notes,
    "preface": preface_table,
    "transitions": transition_table,
    "codes": code_tables,
    "commands": commands_table,
    "options": options_table,
    "metrics": metric_table,
    "process": process_table,
    "operations": operations_table,
}


def renewed(document: str) -> str:
    """Return the document with each ``<!-- table: NAME -->`` ... ``<!-- end -->`` filled anew, and likewise each
    ``<!-- file: PATH -->`` with that file of ``docs`` as a block of code."""

    def fill(match: re.Match[str]) -> str:
        text = TABLES[match[3]]() if match[2] == "table" else code_block(DOCS / match[3])
        return f"{match[1]}\n{text}\n{match[4]}"

    return re.sub(r"(<!-- (table|file): (\S+) -->)\n.*?(<!-- end -->)", fill, document, flags=re.DOTALL)


def code_block(path: Path) -> str:
    """Return a file as a block of Markdown that has its name as the title."""
    language = {".py": "python"}.get(path.suffix, path.suffix.removeprefix("."))
    return f'```{language} title="{path.name}"\n{path.read_text().rstrip()}\n```'


def _tag(kind: type[msgspec.Struct]) -> int:
    tag = kind.__struct_config__.tag
    assert isinstance(tag, int)
    return tag


def _fields(kind: type[msgspec.Struct]) -> Iterator[tuple[str, msgspec.inspect.Type]]:
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    return ((field.name, field.type) for field in info.fields)


def _type(kind: msgspec.inspect.Type) -> str:
    match kind:
        case msgspec.inspect.IntType(ge=low, le=high):
            return f"integer {_number(low)}..{_number(high)}"
        case msgspec.inspect.StrType(max_length=most):
            return f"text of at most {most} characters"
        case msgspec.inspect.BytesType(max_length=most):
            return f"binary of at most {most} bytes"
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.EnumType(cls=cls):
            assert issubclass(cls, IntEnum)
            return f"{cls.__name__}"
        case msgspec.inspect.ListType(item_type=item, min_length=low, max_length=high):
            return f"array of {low or 0} to {high} of {_type(item)}"
        case msgspec.inspect.TupleType(item_types=items):
            return f"[{', '.join(_type(item) for item in items)}]"
        case _:
            raise TypeError(f"no description of {kind}")


def _number(value: int | None) -> str:
    assert value is not None
    power = (value + 1).bit_length() - 1
    return f"2^{power}-1" if power > 16 and value == (1 << power) - 1 else str(value)


def _summary(kind: type) -> str:
    return " ".join(inspect.cleandoc(kind.__doc__ or "").split())


def _attribute_notes(kind: type) -> dict[str, str]:
    """Return the attribute docstrings of a class."""
    source = inspect.getsource(kind)
    found = re.findall(
        r'^    (\w+)(?:: [^=\n][^\n]*(?:\n        [^\n]*\n    \])?| = [^\n]*)\n    """(.*?)"""',
        source,
        re.DOTALL | re.MULTILINE,
    )
    return {name: " ".join(note.split()) for name, note in found}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def main() -> None:
    """Print the tables, or renew a document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE", help="renew the tables and files in this document")
    parser.add_argument("--schema", type=Path, metavar="FILE", help="write the schema of a configuration file")
    options = parser.parse_args()
    if options.schema:
        options.schema.write_text(schema())
    elif options.write:
        options.write.write_text(renewed(options.write.read_text()))
        if options.write.name in HELP_PAGES:  # the manual pages have the same texts
            runpy.run_path(str(DOCS / "man.py"))["write"]()
    else:
        print("\n\n".join(f"## {name}\n\n{table()}" for name, table in TABLES.items()))  # noqa: T201 - its purpose


if __name__ == "__main__":
    main()
