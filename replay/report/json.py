"""The machine-readable report: the document itself. Keys keep their names once released."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from replay.result.document import ResultDocument

SUFFIX = ".json"
_NUMBERS = re.compile(r"\[\s+([-+.\deE,\s]+?)\s+\]")


def write(document: ResultDocument, path: Path) -> None:
    """Write the report to `path`."""
    path.write_text(text(document) + "\n", encoding="utf-8")


def text(document: ResultDocument) -> str:
    """Return the report as text: indented, a column of numbers on one line."""
    indented = document.model_dump_json(indent=2)
    return _NUMBERS.sub(lambda match: "[" + " ".join(match[1].split()) + "]", indented)
