"""Writes comparisons to files: JSON or HTML, by the suffix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvtrace.errors import UsageError
from replay import report
from replay.trials import html

if TYPE_CHECKING:
    from pathlib import Path

    from replay.trials.document import ComparisonDocument

SUFFIXES = (".html", ".json")


def check_suffix(path: Path) -> None:
    """Return if a comparison can be written to a file of that name; as `report.check_suffix`."""
    if path.suffix not in SUFFIXES:
        raise UsageError(
            "unknown form of comparison",
            where=path,
            got=repr(path.suffix),
            accepted=", ".join(SUFFIXES),
        )
    report.check_suffix(path)


def write(found: ComparisonDocument, path: Path, title: str) -> None:
    """Write a comparison at `path`, whole or not at all. Raises TargetError."""
    text = found.model_dump_json(indent=2) if path.suffix == ".json" else html.text(found, title)
    report.write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))
