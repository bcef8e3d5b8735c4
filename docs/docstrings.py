"""Convert docstrings, which are written for a terminal with a little reStructuredText, to Markdown for the
site."""

from __future__ import annotations

import re
import textwrap
from typing import Any, Final

import griffe

ROLE: Final = re.compile(r":(?:class|data|func|meth|mod):`~?([^`]+)`")
LITERAL: Final = re.compile(r"^( *)([^\n]*)::\n\n((?:\1    [^\n]*\n|\n)+)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrites every docstring when it was loaded."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Convert the docstring of an object."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(docstring: str) -> str:
    """Convert roles to code, and ``::`` to a code block."""
    return LITERAL.sub(_fenced, ROLE.sub(r"`\1`", docstring) + "\n").rstrip("\n")


def _fenced(found: re.Match[str]) -> str:
    indent, before, code = found[1], found[2], textwrap.dedent(found[3]).strip("\n")
    head = f"{indent}{before}:\n\n" if before else ""
    return head + textwrap.indent(f"```python\n{code}\n```\n\n", indent)
