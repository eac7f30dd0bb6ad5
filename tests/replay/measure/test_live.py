"""What a run tells while it runs: the bar, and metrics for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import replay
from kvtrace.cli.running import now_text
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.units import MS_NS, S_NS
from replay.measure.live import Live, LiveView
from replay.measure.recorder import Recorder
from replay.ops.contract import Control, Mode
from replay.watch import Silent, Together
from tests.support import places
from tests.support.finished import START, finished
from tests.support.traces import simple_rows, write_trace
from tests.support.views import view

if TYPE_CHECKING:
    from pathlib import Path

DASHBOARD = places.ROOT / "docs/grafana.json"


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
