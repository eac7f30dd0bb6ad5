"""What a run tells while it runs: the bar, and metrics for Prometheus."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import replay
from kvtrace.cli.running import now_text
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.units import MS_NS, S_NS
from replay.measure.histogram import COARSE_BITS, Histogram
from replay.measure.live import Live, LiveLane, LiveView
from replay.measure.recorder import Recorder
from replay.ops.contract import Control, Mode
from replay.watch import Silent, Together
from tests.cli import conftest as cli_conftest
from tests.replay.conftest import simple_rows, write_trace
from tests.replay.test_recorder import START, finished

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
    assert (live.elapsed_s, lane.ops, lane.bytes) == (3.0, 3_000, 3_000 * 4096)
    assert lane.service.count == lane.ops, "one snapshot"
    assert (lane.ops_per_s, lane.bytes_per_s) == (1_000.0, 1_000.0)
    assert lane.service_p50_ns is not None
    assert 5 * MS_NS <= lane.service_p50_ns <= 5 * MS_NS * (1 + 1 / 32)
    assert lane.in_flight == pytest.approx(5, rel=0.1)


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
    assert one.seen[-1].lanes[0].ops == 300, "the last view is of all that was done"
    assert one.seen
