"""Draw the Mermaid diagrams of the documentation: ``python docs/diagrams.py path/to/mermaid.min.js``.

Each block of a page in docs/ becomes ``docs/images/PAGE-NUMBER.svg``, which the site shows (docs/hooks.py); GitHub
draws the block itself. The script is in npm's package ``mermaid`` (``npm pack mermaid@11``, below ``dist/``), and
Chromium runs it (Debian's ``chromium``; playwright of the extra ``dev``).
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Final

from hooks import DOCS, diagrams
from playwright.sync_api import sync_playwright

CONFIGURATION: Final = {
    "startOnLoad": False,
    "theme": "neutral",
    "htmlLabels": False,  # a picture can hold no HTML
    "flowchart": {"htmlLabels": False, "useMaxWidth": False},
    "fontFamily": "sans-serif",
}
DRAW: Final = """async ([source, configuration]) => {
    mermaid.initialize(configuration);
    const { svg } = await mermaid.render("drawn", source);
    return svg.replaceAll("><", ">\\n<").replace("<svg ", '<svg style="background: white" ');
}"""


def rounded(svg: str) -> str:
    """Return the picture with coordinates of one decimal, which is a third of its size."""
    return re.sub(r"-?[0-9]+\.[0-9]{2,}", lambda number: f"{float(number[0]):.1f}", svg)


def main() -> None:
    """Draw all diagrams."""
    script = Path(sys.argv[1])
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page()
        page.add_script_tag(path=script)
        for path in sorted(DOCS.rglob("*.md")):
            for drawn in diagrams(path.relative_to(DOCS).as_posix(), path.read_text()):
                svg = page.evaluate(DRAW, [drawn.source, CONFIGURATION])
                drawn.picture.write_text(f"{drawn.stamp}\n{rounded(svg)}\n")
                print(drawn.picture.relative_to(DOCS))  # noqa: T201 - what a program says
        chromium.close()


if __name__ == "__main__":
    main()
