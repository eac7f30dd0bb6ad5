"""Reports of the tools that look at traces: a page, a workbook or JSON, by the file's name."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvtrace.errors import UsageError
from kvtrace.files.outfile import OutFile, write_whole
from kvtrace.files.outputs import check_apart, check_writable
from kvtrace.show import csvcells
from replay import report
from replay.report.support import workbook

SUFFIXES = (".html", ".json", ".xlsx")


@dataclass(frozen=True, slots=True)
class Forms:
    """The same report in each form; made only where it is asked for."""

    page: Callable[[], str]
    document: Callable[[], dict[str, Any]]
    sheets: Callable[[], Iterable[workbook.Sheet]]


def check_form(path: Path) -> None:
    """Return if a report can be written to a file of that name. Raises UsageError, TargetError."""
    if path.suffix not in SUFFIXES:
        accepted = ", ".join(SUFFIXES)
        raise UsageError(
            "unknown form of report", where=path, got=repr(path.suffix), accepted=accepted
        )
    if path.suffix == ".html":
        from kvtrace.whatif import plot

        plot.needed("--report")
    report.check_suffix(path)


def check_reports(paths: Sequence[Path], inputs: Sequence[Path], *, force: bool) -> None:
    """Refuse reports that can't be written, before anything is read. Raises KvtraceError."""
    if paths:
        check_apart(list(paths), list(inputs))
    for path in paths:
        check_writable(path, force=force)
        check_form(path)


def write_reports(forms: Forms, paths: Iterable[Path], *, force: bool) -> None:
    """Write a report to each path, whole or not at all. Raises TargetError."""
    for path in paths:
        if path.suffix == ".xlsx":
            sheets = list(forms.sheets())
            write_whole(path, lambda place, made=sheets: workbook.write(place, made), force=force)  # type: ignore[misc]
            continue
        text = (
            forms.page()
            if path.suffix == ".html"
            else json.dumps(forms.document(), indent=2, allow_nan=False)
        )
        with OutFile(path, force=force) as file:
            file.write(text.encode())


def write_csv(rows: Sequence[Mapping[str, object]], path: Path, *, force: bool) -> None:
    """Write rows as CSV, a column per name that any has. Raises TargetError."""
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(csvcells.plain, rows))
    with OutFile(path, force=force) as file:
        file.write(text.getvalue().encode())
