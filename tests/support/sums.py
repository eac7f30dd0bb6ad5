"""Figures of a result that must add up, in every form that it is reported in.

Reads reports as their users do: JSON by its keys, CSV and workbooks by their heads, the page and
the terminal by their words.
"""

from __future__ import annotations

import csv
import html as html_text
import json
import re
from typing import TYPE_CHECKING, Any

import openpyxl
import pytest

from replay.compare.figures import of_result

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from replay.result.document import ResultDocument

MOVES = ("read", "write")
FORMS = (".json", ".csv", ".html", ".xlsx", ".mlperf.json")
Rows = list[dict[str, Any]]


def check_document(found: dict[str, Any]) -> None:
    """Add up a result as it is stored."""
    lanes, groups = found["lanes"], found["groups"]
    for name in ("ops", "bytes"):
        assert found[name] == sum(lane[name] for lane in lanes)
        assert found[name] == sum(group[name] for group in groups)
    assert found["errors"] == sum(lane["errors"] for lane in lanes)
    assert found["errors"] == sum(found["errors_by_name"].values())
    seconds = found["window_s"]
    for rate, amount in (("throughput_bytes_per_s", "window_bytes"), ("ops_per_s", "window_ops")):
        whole = sum(lane[amount] for lane in lanes)
        assert (found[rate] or 0) * seconds == pytest.approx(whole)
    for lane in lanes:
        _lane(lane, [group for group in groups if group["tier"] == lane["tier"]])
    _phases(found)
    _requests(found["requests"])


def _lane(lane: dict[str, Any], groups: Rows) -> None:
    moving = [group for group in groups if group["op"] in MOVES]
    for whole, parts in (
        ("throughput_bytes_per_s", ("read_bytes_per_s", "write_bytes_per_s")),
        ("ops_per_s", ("reads_per_s", "writes_per_s")),
    ):
        assert (lane[whole] is None) == (lane["window_s"] == 0)
        if lane[whole] is not None:
            assert sum(lane[part] for part in parts) == pytest.approx(lane[whole])
    assert lane["ops"] == sum(group["ops"] for group in groups)
    assert lane["bytes"] == sum(group["bytes"] for group in moving)
    for time in ("service", "response"):
        if lane[f"{time}_ns"] is None:
            continue
        counts = [group[f"{time}_ns"]["count"] for group in moving]
        assert lane[f"{time}_ns"]["count"] == sum(counts) == sum(group["ops"] for group in moving)
        assert sum(lane[f"{time}_distribution_ns"]["count"]) == sum(counts)
        _means_agree(lane[f"{time}_ns"], [group[f"{time}_ns"] for group in moving])
    for group in moving:
        assert sum(group["service_distribution_ns"]["count"]) == group["ops"]
    assert (lane["service_ns"]["mean"] or 0) * lane["service_ns"]["count"] == pytest.approx(
        lane["io_s"] * 1e9
    )
    _in_flight(lane)
    _lateness(lane["lateness_ns"])


def _means_agree(whole: dict[str, Any], parts: Rows) -> None:
    total = sum(part["mean"] * part["count"] for part in parts if part["count"])
    assert total == pytest.approx((whole["mean"] or 0) * whole["count"])


def _in_flight(lane: dict[str, Any]) -> None:
    slices, flight = lane["time_slices"], lane["in_flight"]
    for kind in ("ops", "ios"):
        if flight[kind] is not None:
            assert flight[kind]["mean"] <= flight[kind]["max"] + 1e-9
    assert lane["in_flight_mean"] == flight["ops"]["mean"]
    assert lane["in_flight_max"] == (flight["ios"] and flight["ios"]["max"])
    fullest = max(slices["in_flight_mean"], default=0.0)
    assert fullest <= flight["ops"]["max"] + 1e-9


def _lateness(found: dict[str, Any] | None) -> None:
    """The parts of each op's lateness add up to it, and so do their means."""
    names = ("dependency_wait_ns", "slot_wait_ns", "burst_wait_ns", "host_lateness_ns")
    if found is None or any(found[name] is None for name in names):
        return
    assert {found[name]["count"] for name in names} == {found["count"]}
    if found["count"]:
        parts = sum(found[name]["mean"] for name in names)
        assert parts == pytest.approx(found["mean"], rel=1e-6, abs=1)


def _phases(found: dict[str, Any]) -> None:
    """Slices of time, warm-up included, add up to what was done."""
    lanes, phases = found["lanes"], found["fidelity"]["phases"]
    slices = [lane["time_slices"] for lane in lanes]
    moved = sum(sum(each["read_bytes"]) + sum(each["write_bytes"]) for each in slices)
    assert moved == sum(phase["executed_bytes"] for phase in phases)
    warm_ups = sum(lane["warmup_ops"] for lane in lanes)
    assert sum(phase["executed_ops"] for phase in phases) == found["ops"] + warm_ups
    for lane, each in zip(lanes, slices, strict=True):
        assert sum(each["completed"]) == sum(map(sum, (each["reads"], each["writes"]))) + sum(
            each["errors"]
        )
        assert sum(each["due"]) == sum(each["completed"])
        heat = lane["heat_map"]
        counted = 0 if heat is None else sum(map(sum, heat["counts"]))
        assert counted == sum(each["reads"]) + sum(each["writes"])
        if not warm_ups:
            for op in MOVES:
                mine = [g for g in found["groups"] if (g["tier"], g["op"]) == (lane["tier"], op)]
                assert sum(each[f"{op}s"]) == sum(group["ops"] for group in mine)
                assert sum(each[f"{op}_bytes"]) == sum(group["bytes"] for group in mine)


def _requests(found: dict[str, Any] | None) -> None:
    if found is None:
        return
    times = ("end_to_end_ns", "storage_io_ns", "waited_ns")
    assert {found[name]["count"] for name in times} == {found["count"]}
    for each in found["by_qos"]:
        assert {each[name]["count"] for name in times} == {each["count"]}
    if found["by_qos"]:
        for name in ("count", "failed"):
            assert sum(each[name] for each in found["by_qos"]) == found[name]


def check_figures(document: ResultDocument) -> None:
    """Add up what `bench` and `compare` show: rates by op, and tiers' rates."""
    figures = {figure.name: figure.value for figure in of_result(document)}
    for lane in document.lanes:
        whole = lane.throughput_bytes_per_s
        if whole is not None:
            parts = [figures.get(f"{lane.tier} {op} rate", 0.0) for op in MOVES]
            assert sum(parts) == pytest.approx(whole)


def check_csv(path: Path, found: dict[str, Any]) -> None:
    """Add up a table: rates per tier, groups, and their counts."""
    with path.open(encoding="utf-8", newline="") as file:
        check_table(list(csv.DictReader(file)), found)


def check_table(rows: Rows, found: dict[str, Any]) -> None:
    """Add up the rows of a table or of a workbook's sheet of latencies."""
    lanes = {row["tier"]: row for row in rows if row["tier"] and not row["op"]}
    assert set(lanes) == {lane["tier"] for lane in found["lanes"]}
    for tier, lane in lanes.items():
        if lane["throughput_bytes_per_s"]:
            parts = float(lane["read_bytes_per_s"]) + float(lane["write_bytes_per_s"])
            assert parts == pytest.approx(float(lane["throughput_bytes_per_s"]))
        groups = {
            (row["phase"], row["op"]): row
            for row in rows
            if (row["tier"], row["qos"] or "", row["size_class_bytes"] or "") == (tier, "", "")
            and row["op"]
        }
        for name in ("ops", "bytes"):
            assert sum(int(row[name]) for row in groups.values()) == int(lane[name])
    base = found["requests"] and found["requests"]["counted_from"]
    late = "ready" if found["lanes"][0]["response_ns"] is None else "due"
    for row in rows:
        expected = {"service": "submit", "response": "due", "lateness": late,
                    "request end to end": base, "request waited": base}  # fmt: skip
        if row["time"] in expected:
            assert row["counted_from"] == expected[row["time"]]


def sheet(book: Any, name: str) -> Rows:
    """Return a sheet's rows by their heads."""
    heads, *rows = book[name].iter_rows(values_only=True)
    return [dict(zip(heads, row, strict=True)) for row in rows]


def check_workbook(path: Path, found: dict[str, Any]) -> None:
    """Add up a workbook's sheets."""
    book = openpyxl.load_workbook(path)
    check_table(sheet(book, "Latencies"), found)
    [summary] = sheet(book, "Summary")
    assert summary["kvtrace ops"] == found["ops"]
    metrics = {row["kvtrace"]: row["kvtrace's value"] for row in sheet(book, "Performance Metrics")}
    rates = [metrics.get(f"{op}s per second, all of them") for op in MOVES]
    if None not in rates:
        assert sum(map(float, rates)) == pytest.approx(summary["kvtrace ops_per_s"])


def check_mlperf(path: Path, found: dict[str, Any]) -> None:
    """Add up our figures beside the benchmark's: rates, bytes and ops of its three tiers."""
    theirs = json.loads(path.read_text())
    beside = {each["name"]: each["ours"] for each in theirs["kvtrace"]["beside"]}
    names = {"gpu": "gpu", "cpu": "cpu", "nvme": "storage"}
    for lane in found["lanes"]:
        prefix = f"summary.cache_stats.tier_{names[lane['tier']]}"
        rates = [beside[f"{prefix}_{op}_bandwidth_gbps"] for op in MOVES]
        if lane["throughput_bytes_per_s"] is not None:
            assert sum(rates) * 1e9 == pytest.approx(lane["throughput_bytes_per_s"])
        moved = [beside[f"{prefix}_kv_bytes_{past}_gb"] for past in ("read", "written")]
        assert sum(moved) * 1e9 == pytest.approx(lane["bytes"])
    stats = theirs["summary"]["cache_stats"]
    own = [g for g in found["groups"] if g["phase"] in ("prefill", "decode")]
    for op in MOVES:
        mine = [group for group in own if group["op"] == op]
        assert stats[f"total_{op}_bytes"] == sum(group["bytes"] for group in mine)
        assert stats[f"{op}_iops"] == sum(group["ops"] for group in mine)


def check_page(path: Path, found: dict[str, Any]) -> None:
    """Add up what a reader of the page sees: rates and ops in flight, per tier."""
    text = path.read_text("utf-8")
    for lane in found["lanes"]:
        section = text.split(f"<h2>Tier {lane['tier']}</h2>")[1].split("<h2>")[0]
        pairs = re.findall(r'<th scope="row">(.*?)</th><td class="text">(.*?)</td>', section)
        shown = {name: html_text.unescape(value) for name, value in pairs}
        if lane["throughput_bytes_per_s"] is not None:
            parts = [number(shown[f"of it {op}"]) for op in MOVES]
            assert sum(parts) == pytest.approx(number(shown["throughput"]), abs=0.0021)
        for name in ("ops in flight", "I/Os in flight"):
            if name in shown:
                mean, most = map(number, shown[name].split(","))
                assert mean <= most + 0.05
        charts = re.findall(r'"GB/s"', section)
        assert charts or not lane["bytes"]


def check_terminal(text: str, found: dict[str, Any]) -> None:
    """Add up what is printed: rates and ops in flight, per tier; counts of the latencies."""
    for lane in found["lanes"]:
        part = text.split(f"\nTier {lane['tier']}\n")[1].split("\nTier ")[0].split("\n\n")[0]
        shown = dict(_words(part))
        if lane["throughput_bytes_per_s"] is not None:
            read, write = (number(shown[f"of it {op}"]) for op in MOVES)
            assert read + write == pytest.approx(number(shown["throughput"]), abs=0.0021)
        for name in ("ops in flight", "I/Os in flight"):
            if name in shown:
                mean, most = map(number, shown[name].split(", "))
                assert mean <= most + 0.05


def _words(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, *rest = re.split(r" {2,}", line.strip(), maxsplit=1)
        if rest:
            yield name, rest[0]


def number(text: str) -> float:
    """Return the first number in a text."""
    match = re.search(r"\d[\d,]*\.?\d*", text)
    assert match is not None, text
    return float(match.group().replace(",", ""))
