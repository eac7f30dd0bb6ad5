"""Writes comparisons to files: JSON, HTML or a workbook, by the suffix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvtrace.errors import UsageError
from kvtrace.files.outfile import write_whole
from replay import report
from replay.compare import html, xlsx

if TYPE_CHECKING:
    from pathlib import Path

    from replay.compare.document import ComparisonDocument

SUFFIXES = (".html", ".json", ".xlsx")


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


def write(document: ComparisonDocument, path: Path, title: str, *, force: bool = False) -> None:
    """Write a comparison at `path`, whole or not at all. Raises TargetError."""

    def write_to(place: Path) -> None:
        if path.suffix == ".xlsx":
            xlsx.write(document, place)
        elif path.suffix == ".html":
            place.write_text(html.text(document, title), encoding="utf-8")
        else:
            place.write_text(document.model_dump_json(indent=2), encoding="utf-8")

    write_whole(path, write_to, force=force)
