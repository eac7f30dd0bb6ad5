"""Every target does what a target must; targets that don't are found out."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kvtrace.placement.extents import Need
from kvtrace.trace.schema import Tier
from replay import engine as engines
from replay import targets
from replay.ops.columns import Ops
from replay.ops.contract import Action, LoopOptions, Mode, Verify, run_whole
from replay.targets import RunMark, Target, TargetSpec
from replay.targets.cuda import CudaTarget
from replay.targets.file import FileTarget
from replay.targets.null import NullTarget
from replay.testing import (
    CHECKS,
    RUN_ID,
    Kit,
    Row,
    SimulatedTarget,
    check_target,
    closes_twice,
    faulty_target,
    opened,
    reads_back_what_was_written,
    stall_target,
    touches_nothing_before_it_is_opened,
)
from tests.support.fake_cuda import FakeCuda

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kvtrace.placement.extents import Space
    from replay.ops.columns import Times

KIB, MIB, MS = 1 << 10, 1 << 20, 1_000_000
compiled = pytest.mark.skipif(
    not engines.availability()[1].available, reason="no compiled loop here"
)

pytestmark = pytest.mark.slow


def spec(name: str, folder: Path) -> TargetSpec:
    """Return the spec of a target by name."""
    known = {"file": (Tier.NVME,), "dir": (Tier.NVME,), "memory": (Tier.CPU,)}
    tiers = known.get(name, tuple(Tier))
    return TargetSpec(name, tiers, folder / "target" if name in ("file", "dir") else None)


KITS = {
    "cuda": Kit(lambda folder: CudaTarget(spec("cuda", folder), FakeCuda()), persistent=False),
    # A run that writes begins with an empty folder.
    "dir": Kit(lambda folder: targets.make(spec("dir", folder)), persistent=False),
    "file": Kit(lambda folder: targets.make(spec("file", folder))),
    "memory": Kit(lambda folder: targets.make(spec("memory", folder)), persistent=False),
    "null": Kit(
        lambda folder: targets.make(spec("null", folder)), keeps_bytes=False, persistent=False
    ),
}
ENGINES = [entry.name for entry in engines.availability() if entry.available]
CASES = [
    *(("file", engine) for engine in ENGINES),
    *(("dir", engine) for engine in ENGINES if engine != "python"),
    *(("cuda", engine) for engine in ENGINES[:1] if engine != "python"),
    *((name, engine) for name in ("memory", "null") for engine in ENGINES[:1]),
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("name", "engine"), CASES)
def test_targets_conform(
    name: str, engine: str, check: Callable[[Kit, Path], None], direct_path: Path
) -> None:
    """Each target passes each check of the kit, the one that does I/O with each engine."""
    kit = KITS[name]
    check(Kit(kit.make, kit.keeps_bytes, kit.persistent, engine), direct_path)


def test_no_target_is_left_out() -> None:
    """A new file in replay/targets must be put to the same test."""
    assert set(KITS) == set(targets.names())


def test_a_device_conforms(loop_device: Callable[..., Path], direct_path: Path) -> None:
    """A block device passes all of the kit, too."""
    loop = loop_device(64 * MIB)
    made = TargetSpec("file", (Tier.NVME,), loop, allow_destroy=str(loop))
    check_target(Kit(lambda folder: targets.make(made)), direct_path)


@compiled
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_simulated_target_without_faults_conforms(
    check: Callable[[Kit, Path], None], tmp_path: Path
) -> None:
    """It is a target like any other: what goes wrong with it is in its script only."""
    check(Kit(lambda folder: faulty_target({}, (1000, 500_000)), persistent=False), tmp_path)


class WritesEarly(FileTarget):
    """Leaves a file behind when asked for permission."""

    def authorise(self, *, writes: bool) -> None:
        (self.facts.path.parent / "lock").touch()


class ClosesOnce(NullTarget):
    """Doesn't expect to be closed again."""

    def close(self) -> None:
        assert self.title
        self.title = ""


def test_the_kit_finds_what_is_wrong(direct_path: Path) -> None:
    """Canaries: a target that forgets its bytes, one that writes too early, one closed once."""
    forgets = Kit(lambda folder: targets.make(spec("null", folder)))
    with pytest.raises(AssertionError):
        check_target(forgets, direct_path)

    def early(folder: Path) -> Target:
        made = targets.make(spec("file", folder))
        assert isinstance(made, FileTarget)
        return WritesEarly(made.spec, made.facts)

    with pytest.raises(AssertionError, match="before it was opened"):
        touches_nothing_before_it_is_opened(Kit(early), direct_path)
    once = Kit(lambda folder: ClosesOnce(spec("null", folder)), keeps_bytes=False)
    with pytest.raises(AssertionError):
        closes_twice(once, direct_path)


@compiled
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_fault_ends_the_op_that_meets_it(error: int, tmp_path: Path) -> None:
    """The n-th I/O fails with its errno, the others succeed, and the kit reports it."""
    kit = Kit(lambda folder: faulty_target({2: -error}), persistent=False)
    rows = [Row(Action.WRITE, key, key * 64 * KIB, 64 * KIB, after=()) for key in range(5)]
    with opened(kit, tmp_path) as session:
        session.depth = 1
        assert session.run(rows).error.tolist() == [0, 0, error, 0, 0]
    with pytest.raises(AssertionError, match=f"error {error}"):
        reads_back_what_was_written(kit, tmp_path)


@compiled
def test_a_short_transfer_is_continued(tmp_path: Path) -> None:
    """An I/O that moves less than asked is no failure: the rest follows, and all is there."""
    kit = Kit(lambda folder: faulty_target({0: 4096, 1: 8192}), persistent=False)
    with opened(kit, tmp_path) as session:
        write = Row(Action.WRITE, 1, 0, MIB)
        session.must([write, Row(Action.READ, 1, 0, MIB)])


def virtual(target: SimulatedTarget, due_ms: list[int], mode: Mode) -> tuple[int, Times]:
    """Run writes that are due then in virtual time; return clock zero and their times."""
    space: Space = target.reserve(Need(1, MIB, MIB))
    target.open(space, RunMark(RUN_ID, ""), writes=True)
    count = len(due_ms)
    ops = Ops.empty(1 << (count - 1).bit_length(), 1)
    ops.action[:count] = Action.WRITE
    ops.length_sectors[:count] = 8
    ops.arena_bytes[:count] = np.arange(count) * 4096  # bytes in flight aren't stamped again
    ops.due_ns[:count] = [due * MS for due in due_ms]
    options = LoopOptions(mode, np.zeros(MIB, np.uint8), RUN_ID, Verify.NONE, virtual_time=True)
    lane = target.lane(64, MIB)
    outcome, times = run_whole(engines.choose("threads"), (lane,), ops, count, options)
    target.close()
    return outcome.start_ns, times


def ms(start_ns: int, column: Any) -> list[float]:
    return [(int(value) - start_ns) / MS for value in column]


@compiled
def test_a_stall_is_in_everybodys_response_time() -> None:
    """An hour's stall takes no time; who comes in it waits for its end and then for service."""
    hour = 3_600_000
    target = stall_target(2 * MS, 10 * MS, 10 * MS + hour * MS)
    start_ns, times = virtual(target, [0, 9, 10, 20, hour + 10], Mode.OPEN)
    assert times.error.tolist() == [0] * 5
    assert ms(start_ns, times.submit_ns) == [0, 9, 10, 20, hour + 10]
    end = hour + 10
    assert ms(start_ns, times.complete_ns) == [2, end + 1, end + 2, end + 2, end + 2]


@compiled
def test_channels_serve_one_after_the_other() -> None:
    """With two channels five I/Os of 3 ms end in pairs."""
    start_ns, times = virtual(stall_target(3 * MS, channels=2), [0] * 5, Mode.MAX)
    assert ms(start_ns, times.complete_ns) == [3, 3, 6, 6, 9]
