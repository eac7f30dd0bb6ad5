"""What must hold after a command, whatever it was given."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fuzz.command import Ended
    from tests.fuzz.targets import Target

ALLOWED = (0, 2, 3, 4, 5)
_COUNTED = re.compile(r"^([\d,]+) ")


def complaint(target: Target, ended: Ended, folder: Path, before: set[str]) -> str | None:
    """Return what is wrong with how a command ended, or None."""
    if ended.code not in ALLOWED:
        return f"exit {ended.code}: {ended.signature}"
    left = {str(path.relative_to(folder)) for path in folder.rglob("*")} - before
    # A check that finds violations, and a run that is INVALID, have done what they were asked.
    if ended.code in (2, 3, 4):
        if left:
            return f"exit {ended.code} left {sorted(left)[0]}"
        lines = [line for line in ended.err.splitlines() if line.startswith("kvtrace: error:")]
        told = ended.code == 3 and ended.out and target.argv[0] == "check"
        if len(lines) != 1 and not told:
            return f"exit {ended.code} with {len(lines)} error lines"
        if lines and len(lines[0]) > 5000:
            return f"exit {ended.code} with a line of {len(lines[0]) // 1000} kB"
    elif partial := [name for name in left if "partial" in name or name.endswith(".tmp")]:
        return f"exit {ended.code} left {partial[0]}"
    if ended.code == 0 and target.account:
        return _ACCOUNTS[target.account](ended, folder)
    return None


def _rows(ended: Ended, folder: Path) -> str | None:
    """Count rows of traces made of traces: none is lost."""
    made = json.loads(ended.out)["rows"]
    given = sum(
        pq.ParquetFile(folder / name).metadata.num_rows
        for name in ("t.parquet", "good.parquet")
        if name == "t.parquet" or "merge" in ended.out
    )
    written = pq.ParquetFile(folder / "o.parquet").metadata.num_rows
    return None if made == written >= given else f"rows: {given} in, {made} said, {written} out"


def _exported(ended: Ended, folder: Path) -> str | None:
    """Count rows of an export: kept or said to be left out."""
    said = json.loads(ended.out)
    given = pq.ParquetFile(folder / "t.parquet").metadata.num_rows
    total = said["rows"] + said["dropped_rows"]
    return None if total >= given else f"export: {given} rows in, {total} accounted for"


def _imported(given: int, ended: Ended) -> str | None:
    said = json.loads(ended.out)
    notes = [note for note in said["notes"] if "left out" in note]
    dropped = sum(int(m[1].replace(",", "")) for note in notes if (m := _COUNTED.match(note)))
    total = said["rows"] + dropped
    return None if total >= given else f"import: {given} in, {total} accounted for"


def _lines(ended: Ended, folder: Path) -> str | None:
    text = (folder / "blk.txt").read_bytes()
    lines = [line for line in text.split(b"\n") if line.strip()]
    if any(line.startswith((b"Total", b"CPU")) for line in lines):
        return None
    return _imported(len(lines), ended)


def _oracle(ended: Ended, folder: Path) -> str | None:
    return _imported((folder / "a.oracleGeneral").stat().st_size // 24, ended)


def _blktrace(ended: Ended, folder: Path) -> str | None:
    if (folder / "x.blktrace.0").stat().st_size % 48:
        return None  # records with data of their own
    return _imported((folder / "x.blktrace.0").stat().st_size // 48, ended)


_ACCOUNTS = {
    "rows": _rows, "export": _exported, "lines": _lines, "oracle": _oracle, "blktrace": _blktrace,
}  # fmt: skip
