"""What the device and the machine did over time: from samples by hand, and of real runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.units import S_NS
from replay import ReplayOptions, run
from replay.host import numa, sampler
from replay.host.document import device_document, host_document
from replay.host.series import Sample, device_series, host_series
from tests.support.traces import file_target, null_target, simple_rows, write_trace

if TYPE_CHECKING:
    from pathlib import Path

    from replay.targets import TargetSpec

STATS = (
    "10 1 80 7  20 2 160 9  3 100 200 5 1 40 6 8 4",
    "15 1 96 8  40 4 480 19 0 150 900 9 1 72 8 9 5",
    "15 1 96 8  40 4 480 19 0 150 900 9 1 72 8 9 5",
)
LEVELS = ("2 1", "0 0", "5 7")
TICKS = (
    "cpu 100 10 50 800 40 1 9 20 0 0",
    "cpu 150 10 70 830 60 2 8 30 0 0",
    "cpu 160 10 80 900 60 2 8 40 0 0",
)


def samples() -> list[Sample]:
    """Return three looks at one device, 1 s and 2 s apart, the first 0.5 s before the start."""
    at_s = (9.5, 10.5, 12.5)
    return [
        Sample(int(at * S_NS), int(S_NS * cpu), ticks, ((stat, level), None))
        for at, cpu, ticks, stat, level in zip(
            at_s, (1, 1.25, 3), TICKS, STATS, LEVELS, strict=True
        )
    ]


def test_a_devices_counters_are_told_per_interval() -> None:
    """Each column is the difference between two looks; levels are those at an interval's end."""
    found = device_series(samples(), 0, 10 * S_NS)
    assert found is not None
    assert found.start_s.tolist() == [-0.5, 0.5]
    assert found.width_s.tolist() == [1, 2]
    assert found.read_ios.tolist() == [5, 0]
    assert found.read_bytes.tolist() == [16 * 512, 0]
    assert (found.write_ios[0], found.write_merges[0], found.write_bytes[0]) == (20, 2, 320 * 512)
    assert (found.read_ms[0], found.write_ms[0]) == (1, 10)
    assert (found.discard_ios[0], found.discard_bytes[0], found.discard_ms[0]) == (4, 32 * 512, 2)
    assert (found.flush_ios[0], found.flush_ms[0]) == (1, 1)
    assert (found.busy_ms[0], found.queue_ms[0]) == (50, 700)
    assert found.reads_in_flight.tolist() == [0, 5]
    assert found.writes_in_flight.tolist() == [0, 7]
    assert found.in_flight_mean.tolist() == [0.7, 0]
    made = device_document(found)
    assert made is not None
    assert made.write_bytes == [320 * 512, 0]


def test_an_older_kernels_counters_have_no_discards() -> None:
    """Before Linux 4.18 a device has 11 counters: what is missing is 0."""
    looks = [
        Sample(at * S_NS, 0, TICKS[0], ((" ".join(stat.split()[:11]), "0 0"),))
        for at, stat in enumerate(STATS[:2])
    ]
    found = device_series(looks, 0, 0)
    assert found is not None
    assert found.write_ios.tolist() == [20]
    assert found.discard_ios.tolist() == [0]


def test_a_device_that_cannot_be_read_has_no_series() -> None:
    """No device, one that went away, or a single look: nothing is made up."""
    assert device_series(samples(), 1, 0) is None
    assert device_series(samples()[:1], 0, 0) is None
    assert host_series([], 0, ticks_per_s=100, cpus=1, cpus_used=frozenset(), nodes={}) is None


def test_cpu_time_is_told_per_interval() -> None:
    """Busy is all but idle and iowait; nice counts as user, interrupts as system."""
    found = host_series(
        samples(),
        10 * S_NS,
        ticks_per_s=100,
        cpus=4,
        cpus_used=frozenset({3, 1}),
        nodes={0: 0, 1: 0, 2: 1, 3: 1},
    )
    assert found is not None
    np.testing.assert_allclose(found.process_s, [0.25, 1.75])
    np.testing.assert_allclose(found.user_s, [0.5, 0.1])
    np.testing.assert_allclose(found.system_s, [0.2, 0.1])
    np.testing.assert_allclose(found.iowait_s, [0.2, 0])
    np.testing.assert_allclose(found.steal_s, [0.1, 0.1])
    np.testing.assert_allclose(found.busy_s, [0.8, 0.3])
    assert (found.cpus, found.cpus_used, found.nodes_used) == (4, (1, 3), (0, 1))
    made = host_document(found)
    assert made is not None
    assert made.nodes_used == [0, 1]


def test_thinning_keeps_the_sums() -> None:
    """A long run's samples are thinned: the first and last stay, so that nothing is lost."""
    looks = [Sample(at, at, TICKS[0], ()) for at in range(7)]
    for count in (2, 3, 6, 7):
        kept = sampler.thinned(looks[:count])
        assert (kept[0], kept[-1]) == (looks[0], looks[count - 1])
        assert [look.at_ns for look in kept] == sorted({look.at_ns for look in kept})
    assert len(sampler.thinned(looks)) == 4


def test_a_sampler_widens_its_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it samples, it keeps so many; its columns stay of one length."""
    monkeypatch.setattr(sampler, "SAMPLES_MAX", 4)
    enough = threading.Event()
    looks = 0
    real = sampler.look

    def look(devices: tuple[Path | None, ...]) -> Sample:
        nonlocal looks
        looks += 1
        if looks == 12:
            enough.set()
        return real(devices)

    monkeypatch.setattr(sampler, "look", look)
    started = sampler.Sampler((None,), width_ns=1000)
    started.start()
    assert enough.wait(60)
    started.stop()
    started.stop()
    found = started.host(0)
    assert found is not None
    assert 2 <= len(found.width_s) <= 4
    assert len(found.busy_s) == len(found.start_s) == len(found.process_s)
    assert found.cpus == os.cpu_count()
    assert started.device(0, 0) is None


def test_nodes_have_cpus_and_memory(tmp_path: Path) -> None:
    """Lists of CPUs are ranges and single ones; a machine that doesn't say has no nodes."""
    for number, (cpus, kib) in enumerate((("0-2,8", 1024), ("3", 2048))):
        node = tmp_path / f"node{number}"
        node.mkdir()
        (node / "cpulist").write_text(cpus + "\n")
        (node / "meminfo").write_text(f"Node {number} MemTotal:       {kib} kB\n")
    assert numa.nodes(tmp_path) == (
        numa.Node(0, (0, 1, 2, 8), 1 << 20),
        numa.Node(1, (3,), 2 << 20),
    )
    assert numa.node_of_cpus(tmp_path) == {0: 0, 1: 0, 2: 0, 8: 0, 3: 1}
    assert numa.nodes(tmp_path / "nothing") == ()


Quick = Callable[..., ReplayOptions]


@pytest.mark.slow
def test_a_runs_writes_are_in_its_devices_series(
    loop_device: Callable[..., Path], tmp_path: Path, quick: Quick
) -> None:
    """On a device that nobody else uses the series holds what the run moved, and no more."""
    device = loop_device()
    rows = [(0, Op.WRITE, Tier.NVME, key, Phase.EVICT, 65_536) for key in range(64)]
    trace = write_trace(tmp_path / "t.parquet", rows)
    target: TargetSpec = file_target(device, allow_destroy=str(device))
    result = run(trace, [target], quick(mode="max", engine="uring"))
    lane = result.lanes[0]
    assert lane.device_series is not None
    assert sum(lane.device_series.write_bytes) == 64 * 65_536
    assert sum(lane.device_series.read_bytes) == 0
    assert lane.device_series.start_s[0] <= 0
    assert result.document().host_series is not None
    assert sum(result.document().host_series.process_s) > 0
    counted = lane.counters
    assert counted.enter_calls >= 64
    assert 1 <= counted.timed_submits <= 64
    assert counted.timed_submit_ns > 0


def test_a_run_without_a_device_has_no_series_of_one(tmp_path: Path, quick: Quick) -> None:
    """The null target has nothing below it; the machine is there all the same."""
    trace = write_trace(tmp_path / "t.parquet", simple_rows(2))
    result = run(trace, [null_target()], quick(mode="max"))
    assert result.lanes[0].device_series is None
    assert result.document().host_series is not None
    assert result.document().bpf is None
    assert result.lanes[0].counters.enter_calls == 0
