"""The HTML report in a real browser: drawn, without errors, sortable by keys, for a phone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from replay import stored
from replay.host.document import (
    BlockGroupDocument,
    BlockLatencyDocument,
    DeviceSeriesDocument,
    HostSeriesDocument,
)
from replay.report import html
from tests.replay.browser import opened, undrawn
from tests.replay.synthetic import one_stall

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A report."""
    path = tmp_path / "report.html"
    html.write(stored.load(one_stall(tmp_path / "r.parquet")), path)
    return path


def test_all_charts_are_drawn_and_nothing_is_wrong(page: Path) -> None:
    """Each chart has marks; the console stays silent; nothing is asked of a network."""
    with opened(page) as driver:
        assert len(driver.find_elements("css selector", ".chart")) == 7
        assert undrawn(driver) == []
        assert driver.get_log("browser") == []
        loaded = driver.execute_script("return performance.getEntriesByType('resource')")
        assert [entry["name"] for entry in loaded if not entry["name"].startswith("data:")] == []
    assert page.stat().st_size < 5_000_000


def test_tables_are_sorted_by_keys(page: Path) -> None:
    """Enter on a column's head sorts up, again down; the head says so."""
    with opened(page) as driver:
        keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
        wide = "table:has(thead th:nth-child(14))"
        table = driver.find_element("css selector", wide)
        head = table.find_elements("css selector", "thead button")[10]
        values = []
        for order in ("ascending", "descending"):
            head.send_keys(keys.ENTER)
            assert head.find_element("xpath", "..").get_attribute("aria-sort") == order
            cells = table.find_elements("css selector", "tbody td:nth-child(11)")
            values.append([float(cell.get_attribute("data-value")) for cell in cells])
        assert values == [sorted(values[0]), sorted(values[0], reverse=True)]
        assert len(values[0]) > 2


def test_a_phone_needs_no_scrolling_sideways(page: Path) -> None:
    """At 390 px the page is as wide as the screen."""
    with opened(page, phone=True) as driver:
        assert driver.execute_script("return innerWidth") == 390
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 390
        assert undrawn(driver) == []


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
        assert len(driver.find_elements("css selector", ".chart")) == 7 + 3
        assert undrawn(driver) == []
        assert driver.get_log("browser") == []
