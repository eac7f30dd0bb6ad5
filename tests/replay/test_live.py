"""What a run tells while it runs: the bar, and metrics for Prometheus."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import replay
from kvtrace.cli.running import now_text
from kvtrace.errors import TargetError, UsageError
from kvtrace.schema import Op, Phase, Tier
from kvtrace.units import MS_NS, S_NS
from replay.histogram import COARSE_BITS, Histogram
from replay.live import Live, LiveLane, LiveView
from replay.loop import Control, Mode
from replay.metrics import Metrics, parse_address
from replay.recorder import Recorder
from replay.watch import Silent, Together
from tests.cli import conftest as cli_conftest
from tests.replay.conftest import simple_rows, write_trace
from tests.replay.test_recorder import START, finished

if TYPE_CHECKING:
    from collections.abc import Callable

cli = cli_conftest.cli
DASHBOARD = Path(__file__).parents[2] / "docs/grafana.json"


def view(**changed: object) -> Live:
    """Two tiers at 2 s."""
    fields: dict[str, object] = {
        "tier": Tier.NVME, "ops": 100, "bytes": 5 * 10**9, "errors": 2, "ops_per_s": 50.0,
        "bytes_per_s": 2.5e9, "service_p50_ns": MS_NS, "service_p99_ns": 4 * MS_NS,
        "lateness_max_ns": 20_000, "in_flight": 3.5,
        "service": Histogram.of(np.array([900, 3 * MS_NS, 9 * S_NS]), COARSE_BITS),
    }  # fmt: skip
    first = LiveLane(**(fields | changed))  # type: ignore[arg-type]
    nothing = {"service_p50_ns": None, "service_p99_ns": None, "lateness_max_ns": None}
    other = LiveLane(**(fields | {"tier": Tier.CPU, "bytes_per_s": 5e8} | nothing))  # type: ignore[arg-type]
    return Live(2.0, (other, first))


def scraped(metrics: Metrics) -> dict[str, dict[str, float]]:
    """Return what an independent parser finds: samples by name, per tier."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{metrics.port}/metrics",
        headers={"Accept": "application/openmetrics-text; version=1.0.0"},
    )
    with urllib.request.urlopen(request) as answer:
        assert "openmetrics" in answer.headers["Content-Type"]
        text = answer.read().decode()
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name + (sample.labels.get("le") or "")
            found.setdefault(name, {})[sample.labels.get("tier", "")] = sample.value
    return found


def test_metrics_are_openmetrics_in_base_units() -> None:
    """Counters, gauges in seconds and bytes, a cumulative histogram; unknown times are left out."""
    with Metrics(*parse_address("0")) as metrics:
        assert scraped(metrics) == {}
        metrics.look(view())
        found = scraped(metrics)
    assert found["kvtrace_elapsed_seconds"] == {"": 2.0}
    assert found["kvtrace_bytes_total"]["nvme"] == 5e9
    assert found["kvtrace_errors_total"]["nvme"] == 2
    assert found["kvtrace_bytes_per_second"] == {"nvme": 2.5e9, "cpu": 5e8}
    assert found["kvtrace_service_p99_seconds"] == {"nvme": pytest.approx(0.004)}
    assert found["kvtrace_lateness_max_seconds"] == {"nvme": pytest.approx(0.00002)}
    buckets = [found[f"kvtrace_service_seconds_bucket{edge}"]["nvme"]
               for edge in ("1e-06", "0.002", "0.005", "5.0", "10.0", "+Inf")]  # fmt: skip
    assert buckets == [1, 1, 2, 2, 3, 3]
    assert found["kvtrace_service_seconds_count"]["nvme"] == 3


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    """Every expression in docs/grafana.json is of what is served."""
    with Metrics(*parse_address("0")) as metrics:
        metrics.look(view())
        known = {re.sub(r"_bucket.*", "_bucket", name) for name in scraped(metrics)}
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = {
        name
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"kvtrace_\w+", target["expr"])
    }
    assert asked
    assert asked <= known


def test_the_bar_says_rate_p99_and_lateness() -> None:
    """Of all tiers together, the slowest's; short enough for 80 columns beside the bar."""
    assert now_text(view()) == "3.00GB/s P99 4.000ms late 20.0µs"
    assert now_text(view(service_p99_ns=None, lateness_max_ns=None)) == "3.00GB/s"


def test_a_view_is_of_the_last_second() -> None:
    """Rates from the loop's counters since the last view; times from slices of the last second."""
    control = Control(1)
    control.start_ns[0] = S_NS
    due = np.arange(3_000) * MS_NS
    rows = [(int(at), Op.READ, Tier.NVME, 1, Phase.DECODE, 4096) for at in due]
    took = np.where(due < 2 * S_NS, MS_NS, 5 * MS_NS)
    recorder = Recorder(1, Mode.OPEN, START)
    recorder.add(finished(rows, complete_ns=due + took))
    recorder.finish()
    looking = LiveView([Tier.NVME], recorder, control)
    assert looking.look(S_NS + S_NS // 2) is None
    control.completed_ops[0], control.completed_bytes[0] = 2_000, 4_000
    assert looking.look(3 * S_NS) is not None
    control.completed_ops[0], control.completed_bytes[0] = 3_000, 5_000
    live = looking.look(4 * S_NS)
    assert live is not None
    lane = live.lanes[0]
    assert (live.elapsed_s, lane.ops, lane.bytes) == (3.0, 3_000, 5_000)
    assert (lane.ops_per_s, lane.bytes_per_s) == (1_000.0, 1_000.0)
    assert lane.service_p50_ns is not None
    assert 5 * MS_NS <= lane.service_p50_ns <= 5 * MS_NS * (1 + 1 / 32)
    assert lane.in_flight == pytest.approx(5, rel=0.1)
    assert lane.service.count == 3_000


@pytest.mark.slow
def test_a_run_tells_its_watchers(tmp_path: Path) -> None:
    """At least one view of a run of more than a second, to each of several watchers."""

    class Looking(Silent):
        def __init__(self) -> None:
            self.seen: list[Live] = []

        def look(self, live: Live) -> None:
            self.seen.append(live)

    trace = write_trace(tmp_path / "t.parquet", simple_rows(100, gap_ns=4 * MS_NS))
    one, other = Looking(), Looking()
    replay.run(trace, [replay.TargetSpec("null", (Tier.NVME,))], watcher=Together(one, other))
    assert one.seen == other.seen
    assert one.seen
    assert 0 < one.seen[-1].lanes[0].ops <= 400


@pytest.mark.parametrize("text", ["", "x", "70000", "a:b", "-1"])
def test_a_bad_port_is_refused(text: str) -> None:
    """With what is accepted."""
    with pytest.raises(UsageError, match=r"--metrics-port.*accepted"):
        parse_address(text)


def test_addresses() -> None:
    """A port alone is on this machine only."""
    assert parse_address("9400") == ("127.0.0.1", 9400)
    assert parse_address("0.0.0.0:0") == ("0.0.0.0", 0)
    assert parse_address("[::1]:9400") == ("::1", 9400)


def test_a_port_in_use_is_an_error_before_anything_runs(
    cli: Callable[..., cli_conftest.Outcome], tmp_path: Path
) -> None:
    """Exit 4, in one line."""
    trace = write_trace(tmp_path / "t.parquet", simple_rows(1))
    with Metrics(*parse_address("0")) as metrics:
        with pytest.raises(TargetError, match="can't listen"), Metrics("127.0.0.1", metrics.port):
            pass
        found = cli("replay", trace, "--target", "null", "--metrics-port", metrics.port)
    assert found.code == 4
    assert "can't listen" in found.error
