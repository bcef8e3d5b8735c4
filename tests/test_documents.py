"""What the documents say of the code is so."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_tables_of_the_protocol_are_those_of_the_code():
    document = (DOCS / "PROTOCOL.md").read_text()
    renewed = runpy.run_path(str(DOCS / "tables.py"))["renewed"]
    assert renewed(document) == document, "`python docs/tables.py --write docs/PROTOCOL.md` renews them"
