"""The HTML report in a real browser: drawn, without errors, sortable by keys, for a phone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kvtrace.trace.header import Header
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.trace.writer import TraceWriter
from kvtrace.units import MS_NS
from replay.host.document import (
    BlockGroupDocument,
    BlockLatencyDocument,
    DeviceSeriesDocument,
    HostSeriesDocument,
)
from replay.report import html
from replay.report.web import charts
from replay.result import stored
from tests.support.browser import opened, undrawn
from tests.support.synthetic import one_stall

if TYPE_CHECKING:
    from pathlib import Path

    from replay.result.document import ResultDocument

pytestmark = pytest.mark.slow
CHARTS = 10
"""Of a tier with one kind of op: throughput, ops in flight, P50 and P99 over time, service and
response times by percentile, a heat map, lateness, sizes; and the gaps between ops."""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A report."""
    path = tmp_path / "report.html"
    html.write(stored.load(one_stall(tmp_path / "r.parquet")), path)
    return path


def test_all_charts_are_drawn_and_nothing_is_wrong(page: Path) -> None:
    """Each chart has marks; the console stays silent; nothing is asked of a network."""
    with opened(page) as driver:
        assert len(driver.find_elements("css selector", ".chart")) == CHARTS
        assert undrawn(driver) == []
        assert driver.get_log("browser") == []
        loaded = driver.execute_script("return performance.getEntriesByType('resource')")
        assert [entry["name"] for entry in loaded if not entry["name"].startswith("data:")] == []
    assert page.stat().st_size < 5_000_000


def test_tables_are_sorted_by_keys(page: Path) -> None:
    """Enter on a column's head sorts up, again down; the head says so."""
    with opened(page) as driver:
        keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
        table = driver.find_element("css selector", "table.dense")
        head = table.find_elements("css selector", "thead button")[6]
        assert head.text == "P90"
        values = []
        for order in ("ascending", "descending"):
            head.send_keys(keys.ENTER)
            assert head.find_element("xpath", "..").get_attribute("aria-sort") == order
            cells = table.find_elements("css selector", "tbody td:nth-child(7)")
            values.append([float(cell.get_attribute("data-value")) for cell in cells])
        assert values == [sorted(values[0]), sorted(values[0], reverse=True)]
        assert len(values[0]) > 2


def test_a_phone_needs_no_scrolling_sideways(page: Path) -> None:
    """At 390 px the page is as wide as the screen."""
    with opened(page, phone=True) as driver:
        assert driver.execute_script("return innerWidth") == 390
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 390
        assert undrawn(driver) == []


@pytest.fixture
def both(tmp_path: Path) -> ResultDocument:
    """A result of reads of 1 ms and writes of 4 ms on one tier, with long names and numbers."""
    path = tmp_path / "both.parquet"
    count = 2_000
    due = np.arange(count, dtype=np.int64) * MS_NS
    op = np.where(np.arange(count) % 2, np.uint8(Op.WRITE), np.uint8(Op.READ))
    took = np.where(op == Op.WRITE, 4 * MS_NS, MS_NS)
    columns = {
        "timestamp": due, "op": op, "size": np.full(count, 1 << 20, np.uint64),
        "tier": np.full(count, Tier.OBJECT, np.uint8), "key": np.arange(count).astype(np.uint64),
        "phase": np.full(count, Phase.PROMOTE, np.uint8), "due": due, "submit": due,
        "complete": due + took,
    }  # fmt: skip
    with TraceWriter(path, Header(), ["due", "submit", "complete"]) as writer:
        writer.append(columns)
    return stored.load(path)


def wide(document: ResultDocument) -> ResultDocument:
    """The result with the longest words and numbers that its latencies' table may have."""
    names = [name for name in type(document.service_ns).model_fields if name.startswith("p")]
    longest = dict.fromkeys([*names, "max"], 999_900_000) | {"count": 9_999_999}
    times = document.service_ns.model_copy(update=longest | {"few_samples": names})
    group = document.groups[0].model_copy(update={
        "service_ns": times, "response_ns": times, "ops": 9_999_999, "bytes": 1023 << 30,
        "errors": 99_999, "tier": "object", "phase": "promote", "op": "delete",
        "qos": "interactive",
    })  # fmt: skip
    return document.model_copy(update={"groups": [group]})


def test_the_latencies_fit_a_screen_of_1280(both: ResultDocument, tmp_path: Path) -> None:
    """No scrolling sideways in the table, with errors, long names and wide numbers."""
    path = tmp_path / "report.html"
    html.write(wide(both), path)
    with opened(path) as driver:
        size = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        table = "document.querySelector('table.dense')"
        shown, needed = driver.execute_script(
            f"return [{table}.parentElement.clientWidth, {table}.parentElement.scrollWidth]"
        )
        assert "interactive" in driver.execute_script(f"return {table}.textContent")
    assert shown > 1000
    assert needed <= shown


def test_nothing_is_cut_off_on_paper(both: ResultDocument, tmp_path: Path) -> None:
    """A4 with margins of a centimetre is 718 px wide."""
    path = tmp_path / "report.html"
    html.write(both, path)
    with opened(path) as driver:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        size = {"width": 718, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        shown, needed = driver.execute_script(
            "const page = document.documentElement; return [page.clientWidth, page.scrollWidth]"
        )
    assert shown > 600
    assert needed <= shown


def rows_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a chart draws."""
    return [row for rows in spec["datasets"].values() for row in rows]


def test_reads_and_writes_have_a_curve_each(both: ResultDocument) -> None:
    """In each plot of times: no curve, and no heat map, mixes what differs by its nature."""
    lane = both.lanes[0]
    drawn = {chart.caption: chart.spec for chart in charts.of_lane(lane, both.groups, [])}
    curves = ["P50 of service time over time, ms", "P99 of service time over time, ms",
              "Service time by percentile, ms", "Response time by percentile, ms"]  # fmt: skip
    for caption in curves:
        text = json.dumps(drawn[caption])
        assert '"of": "reads"' in text, caption
        assert '"of": "writes"' in text, caption
    of_reads = [row["ms"] for row in rows_of(drawn[curves[2]]) if row["of"] == "reads"]
    assert max(of_reads) == pytest.approx(1, rel=0.01), "writes take 4 ms"
    heats = [name for name in drawn if name.endswith("how many took how long when")]
    assert [name.split(":")[0] for name in heats] == ["Reads", "Writes"]
    reads, writes = (sum(row["ops"] for row in rows_of(drawn[name])) for name in heats)
    assert (reads, writes) == (1000, 1000)


def test_older_results_have_one_heat_map(both: ResultDocument) -> None:
    """Where ops weren't counted apart it says that it is of both."""
    lane = both.lanes[0]
    assert lane.heat_map is not None
    assert sum(map(sum, lane.heat_map.counts)) == 2000
    heat = lane.heat_map.model_copy(update={"counts_by_op": {}})
    drawn = charts.of_lane(lane.model_copy(update={"heat_map": heat}), both.groups, [])
    assert "Reads and writes: how many took how long when" in [chart.caption for chart in drawn]


def test_the_device_and_the_machine_are_drawn(tmp_path: Path) -> None:
    """Throughput and queue of the device, CPUs of the machine, the block layer's table."""
    document = stored.load(one_stall(tmp_path / "r.parquet"))
    device = {name: [1, 2, 3] for name in DeviceSeriesDocument.model_fields}
    host = {name: [1, 2, 3] for name in HostSeriesDocument.model_fields if name != "cpus"} | {
        "cpus": 8
    }
    block = BlockLatencyDocument(
        start_s=0, end_s=1, note="of the block layer",
        groups=[BlockGroupDocument(
            device="nvme0n1", op="read", size_class_bytes=4096, count=12_345, mean_us=80, p50_us=70,
            p99_us=900, max_us=1000, bucket_us=[64.0], bucket_count=[12_345],
        )],
    )  # fmt: skip
    lane = document.lanes[0].model_copy(
        update={"device_series": DeviceSeriesDocument.model_validate(device)}
    )
    changed = document.model_copy(
        update={
            "lanes": [lane],
            "host_series": HostSeriesDocument.model_validate(host),
            "bpf": block,
        }
    )
    path = tmp_path / "report.html"
    html.write(changed, path)
    assert "of the block layer" in path.read_text()
    assert "12,345" in path.read_text()
    with opened(path) as driver:
        assert len(driver.find_elements("css selector", ".chart")) == CHARTS + 3
        assert undrawn(driver) == []
        assert driver.get_log("browser") == []
