"""The workbook: its sheets, numbers typed as numbers, the same figures as the document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from replay.host.document import BlockGroupDocument, BlockLatencyDocument
from replay.report import xlsx
from replay.report.sections import scripts
from replay.result import stored
from tests.support.synthetic import errors, with_requests
from tests.support.traces import simple_rows, write_trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.command import Outcome

openpyxl = pytest.importorskip("openpyxl")


SHEETS = ["Summary", "Run Parameters", "Performance Metrics", "QoS Metrics", "Verdict",
          "Storage Health", "Latencies"]  # fmt: skip


def rows_of(sheet: Any) -> list[dict[str, Any]]:
    """Return a sheet's rows by their heads."""
    heads, *rows = sheet.iter_rows(values_only=True)
    return [dict(zip(heads, row, strict=True)) for row in rows]


def test_the_workbook_says_what_the_result_says(tmp_path: Path) -> None:
    """Summary, verdict, metrics, health, latencies: read by another program's library."""
    document = stored.load(errors(tmp_path / "r.parquet"))
    xlsx.write(document, tmp_path / "r.xlsx")
    book = openpyxl.load_workbook(tmp_path / "r.xlsx")
    assert book.sheetnames == SHEETS
    [summary] = rows_of(book["Summary"])
    assert (summary["Verdict"], summary["Reasons"]) == ("INVALID", "failed_ops")
    assert (summary["kvtrace ops"], summary["kvtrace errors"]) == (document.ops, 100)
    assert isinstance(summary["kvtrace throughput_bytes_per_s"], float)
    assert summary["kvtrace service_p99_ns"] == document.service_ns.p99
    p95_ms = summary["Storage Tier Read Device P95 (ms)"]
    assert p95_ms == pytest.approx(document.service_ns.p95 / 1e6)
    assert summary["Storage Tier Write Device P95 (ms)"] is None
    assert "failed_ops" in {row["code"] for row in rows_of(book["Verdict"])}
    health = {row["criterion"]: row for row in rows_of(book["Storage Health"])}
    assert health["Storage Tier Read Device P95 < 200ms"]["passed"] is True
    assert health["CPU RAM P95 < 150ms"]["passed"] == "not measured"
    latencies = list(book["Latencies"].iter_rows(values_only=True))
    assert latencies[0] == scripts.columns()
    expected = [[cell or 0 for cell in row.cells] for row in scripts.latencies(document).rows]
    assert len(latencies) == 1 + len(expected)
    for row, numbers in zip(latencies[1:], expected, strict=True):
        for value, number in zip(row, numbers, strict=True):
            assert (value or 0) == (number if isinstance(number, str) else pytest.approx(number))
    assert book["Summary"].freeze_panes == "A2"


def test_numbers_have_formats(tmp_path: Path) -> None:
    """Times in ns and counts whole with separators, ms and seconds with three digits."""
    document = stored.load(errors(tmp_path / "r.parquet"))
    xlsx.write(document, tmp_path / "r.xlsx")
    book = openpyxl.load_workbook(tmp_path / "r.xlsx")

    def formats(sheet: str, head: str) -> set[str]:
        heads = [cell.value for cell in book[sheet][1]]
        column = (row[heads.index(head)] for row in book[sheet].iter_rows(min_row=2))
        return {cell.number_format for cell in column if cell.value is not None}

    assert formats("Summary", "kvtrace service_p99_ns") == {"#,##0"}
    assert formats("Summary", "Storage Tier Read Device P95 (ms)") == {"#,##0.000"}
    assert formats("Latencies", "p999_ns") == {"#,##0"}
    assert formats("Latencies", "window_s") == {"#,##0.000"}


def test_metrics_stand_under_their_names_with_ours_beside(tmp_path: Path) -> None:
    """Their headings, numbers typed as numbers, our figure and why; nothing where none is known."""
    document = stored.load(errors(tmp_path / "r.parquet"))
    xlsx.write(document, tmp_path / "r.xlsx")
    rows = rows_of(openpyxl.load_workbook(tmp_path / "r.xlsx")["Performance Metrics"])
    found = {row["Metric"]: row for row in rows}
    read = found["Tier Storage Read Bandwidth (GB/s)"]
    seconds = document.window_s + document.lanes[0].drain_s
    assert read["Value"] == pytest.approx(document.bytes / 2**30 / seconds)
    rate = document.lanes[0].throughput_bytes_per_s
    assert rate is not None
    assert read["kvtrace's value"] == pytest.approx(rate / 1e9)
    assert "GiB/s" in read["why"]
    assert found["Read IOPS"]["Value"] == document.ops
    assert found["Total Requests"]["Value"] is None, "the ops name no requests"
    numbers = [row["Value"] for row in rows if row["Metric"] != "Storage Health"]
    assert all(value is None or isinstance(value, int | float) for value in numbers)


@pytest.mark.slow
def test_service_levels_and_the_block_layer_have_their_sheets(tmp_path: Path) -> None:
    """A class per row, end to end and by its waiting; tracing only where it was measured."""
    document = stored.load(errors(tmp_path / "r.parquet"))
    group = BlockGroupDocument(
        device="d", op="write", size_class_bytes=4096, count=2, mean_us=1, p50_us=1, p99_us=1,
        max_us=1, bucket_us=[1.024], bucket_count=[2],
    )  # fmt: skip
    bpf = BlockLatencyDocument(start_s=0, end_s=1, note="", groups=[group])
    xlsx.write(with_requests(document).model_copy(update={"bpf": bpf}), tmp_path / "r.xlsx")
    book = openpyxl.load_workbook(tmp_path / "r.xlsx")
    [row] = rows_of(book["QoS Metrics"])
    assert (row["QoS Level"], row["Total Requests"]) == ("interactive", 4)
    assert (row["SLA Met"], row["SLA Compliance"]) == (False, 0.5)
    assert (row["SLA Met by waiting"], row["SLA Compliance by waiting"]) == (True, 1)
    [traced] = rows_of(book["Device Tracing"])
    assert (traced["Metric"], traced["Samples"]) == ("D2C Write (us)", 2)


@pytest.mark.slow
def test_a_run_on_a_device_has_its_counters(cli: Callable[..., Outcome], direct_path: Path) -> None:
    """Device Counters has the kernel's as numbers, Run Parameters the command."""
    trace, book_path = write_trace(direct_path / "t.parquet", simple_rows()), direct_path / "r.xlsx"
    found = cli("replay", trace, "--device", direct_path / "target", "--arena", "16MiB",
                "--settle", "0s", "--report", book_path)  # fmt: skip
    assert found.code in (0, 5)
    book = openpyxl.load_workbook(book_path)
    parameters = {row[0].value: row[1].value for row in book["Run Parameters"].iter_rows()}
    assert parameters["command"].startswith("kvtrace replay ")
    if "Device Counters" not in book.sheetnames:
        pytest.skip("no block device below pytest's files")
    rows = list(book["Device Counters"].iter_rows(min_row=2, values_only=True))
    assert {"read_ios", "write_bytes"} <= {name for _, name, _ in rows}
    assert all(isinstance(value, int | float) for _, _, value in rows)
