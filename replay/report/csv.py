"""The report as a table: one row per lane, group and kind of time, for spreadsheets and scripts."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from kvtrace.show import csvcells
from replay.report.sections import scripts

if TYPE_CHECKING:
    from pathlib import Path

    from replay.result.document import ResultDocument

SUFFIX = ".csv"


def write(document: ResultDocument, path: Path) -> None:
    """Write the report to `path`."""
    section = scripts.latencies(document)
    heads = [column.title for column in section.columns]
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, heads, lineterminator="\n")
        table.writeheader()
        for row in section.rows:
            table.writerow(csvcells.plain(dict(zip(heads, row.cells, strict=True))))
