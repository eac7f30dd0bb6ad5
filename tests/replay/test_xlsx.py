"""The workbook: its sheets, numbers typed as numbers, the same figures as the document."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from replay import stored
from replay.report import csv, xlsx
from tests.cli import conftest as cli_conftest
from tests.replay.conftest import simple_rows, write_trace
from tests.replay.synthetic import errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

cli = cli_conftest.cli
openpyxl = pytest.importorskip("openpyxl")


def test_the_workbook_says_what_the_result_says(tmp_path: Path) -> None:
    """Summary, verdict, parameters, metrics: read by another program's library."""
    document = stored.load(errors(tmp_path / "r.parquet"))
    xlsx.write(document, tmp_path / "r.xlsx")
    book = openpyxl.load_workbook(tmp_path / "r.xlsx")
    names = ["Summary", "Verdict", "Run Parameters", "Performance Metrics", "QoS Metrics"]
    assert book.sheetnames == names
    summary = {row[0].value: row[1].value for row in book["Summary"].iter_rows(min_row=2)}
    assert summary["verdict"] == "INVALID"
    assert (summary["ops"], summary["errors"]) == (document.ops, 100)
    assert isinstance(summary["throughput_bytes_per_s"], float)
    assert summary["service_p99_ns"] == document.service_ns.p99
    codes = [row[1].value for row in book["Verdict"].iter_rows(min_row=2)]
    assert "failed_ops" in codes
    metrics = list(book["Performance Metrics"].iter_rows(values_only=True))
    assert metrics[0] == csv.COLUMNS
    expected = [tuple(row.get(name) or 0 for name in csv.COLUMNS) for row in csv.rows(document)]
    assert len(metrics) == 1 + len(expected)
    for row, numbers in zip(metrics[1:], expected, strict=True):
        for value, number in zip(row, numbers, strict=True):
            assert (value or 0) == (number if isinstance(number, str) else pytest.approx(number))
    assert book["Summary"].freeze_panes == "A2"


def test_a_run_on_a_device_has_its_counters(
    cli: Callable[..., cli_conftest.Outcome], direct_path: Path
) -> None:
    """Device Tracing has the kernel's counters as numbers, Run Parameters the command."""
    trace, book_path = write_trace(direct_path / "t.parquet", simple_rows()), direct_path / "r.xlsx"
    found = cli("replay", trace, "--device", direct_path / "target", "--arena", "16MiB",
                "--settle", "0s", "--report", book_path)  # fmt: skip
    assert found.code in (0, 5)
    book = openpyxl.load_workbook(book_path)
    parameters = {row[0].value: row[1].value for row in book["Run Parameters"].iter_rows()}
    assert parameters["command"].startswith("kvtrace replay ")
    if "Device Tracing" not in book.sheetnames:
        pytest.skip("no block device below pytest's files")
    rows = list(book["Device Tracing"].iter_rows(min_row=2, values_only=True))
    assert {"read_ios", "write_bytes"} <= {name for _, name, _ in rows}
    assert all(isinstance(value, int | float) for _, _, value in rows)
