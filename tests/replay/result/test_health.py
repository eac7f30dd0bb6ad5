"""Storage health: thresholds, what isn't measured, and the form per MiB."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.units import MIB, MS_NS
from replay.result import stored
from tests.support.synthetic import write_ops
from tests.support.traces import simple_rows, write_trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from replay.result.health import HealthDocument, Judged
    from tests.support.command import Outcome

Kind = tuple[Tier, Phase, Op]
NVME_READ: Kind = (Tier.NVME, Phase.DECODE, Op.READ)
NVME_WRITE: Kind = (Tier.NVME, Phase.PREFILL, Op.WRITE)
NVME_DEMOTION: Kind = (Tier.NVME, Phase.EVICT, Op.WRITE)
CPU_READ: Kind = (Tier.CPU, Phase.DECODE, Op.READ)
WRITES, READS, CPU, HITS = range(4)


def health(path: Path, kind: Kind, service_ms: float, size: int = MIB) -> HealthDocument:
    """Return the health of 100 ops that take as long."""
    made = write_ops(path / "r.parquet", kind, service_ns=round(service_ms * MS_NS), size=size)
    found = stored.load(made).storage_health
    assert found is not None
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "criterion", "limit_ms"),
    [(NVME_WRITE, WRITES, 500), (NVME_READ, READS, 200), (CPU_READ, CPU, 150)],
)
def test_a_criterion_passes_below_its_threshold(
    tmp_path: Path, kind: Kind, criterion: int, limit_ms: float
) -> None:
    """Its own ops decide on it; exactly the threshold is too long; the others aren't measured."""
    for service_ms, passed in ((limit_ms * 0.99, True), (limit_ms, False)):
        found = health(tmp_path, kind, service_ms)
        judged = found.criteria[criterion].theirs
        assert (judged.passed, judged.target, judged.count) == (passed, limit_ms, 100)
        assert judged.actual == pytest.approx(service_ms, rel=1 / 256)
        assert found.status == ("PASS" if passed else "FAIL")
        assert found.measured_count == 1
        others = [each for at, each in enumerate(found.criteria) if at != criterion]
        assert [each.theirs.passed for each in others] == [None] * 3
        (tmp_path / "r.parquet").unlink()


def test_nothing_measured_is_no_pass(tmp_path: Path) -> None:
    """Ops of the GPU only have no criterion."""
    found = health(tmp_path, (Tier.GPU, Phase.DECODE, Op.READ), 1)
    assert (found.status, found.status_ours, found.measured_count) == (
        "NOT MEASURED", "NOT MEASURED", 0,
    )  # fmt: skip


def test_demotions_are_in_our_form_only(tmp_path: Path) -> None:
    """Theirs doesn't see the writes that a waterfall's storage tier consists of."""
    found = health(tmp_path, NVME_DEMOTION, 3)
    assert found.criteria[WRITES].theirs.passed is None
    assert found.criteria[WRITES].ours.passed is False, "3 ms for one MiB is below 0.4 GiB/s"
    assert (found.status, found.status_ours) == ("NOT MEASURED", "FAIL")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "service_ms", "theirs", "ours"),
    [
        (400 * MIB, 300, False, True),  # 1.3 GiB/s: the object is large, the device good
        (4 * MIB, 100, True, False),  # 40 MiB/s: the object is small, the device bad
        (4096, 0.9, True, True),  # counts as one MiB
        (4096, 1.1, True, False),
    ],
)
def test_per_mib_the_device_is_judged_not_the_object(
    tmp_path: Path, size: int, service_ms: float, theirs: bool, ours: bool
) -> None:
    """Reads: 1 ms per MiB, theirs ÷ 200 MiB."""
    judged = health(tmp_path, NVME_READ, service_ms, size).criteria[READS]
    assert (judged.theirs.passed, judged.ours.passed) == (theirs, ours)
    assert (judged.ours.unit, judged.ours.target) == ("ms/MiB", 1.0)


def test_what_is_asked_of_a_null_target_is_not_measured(
    cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    """It stores nothing: its latencies are no storage's."""
    trace = write_trace(tmp_path / "t.parquet", simple_rows())
    found = cli("replay", trace, "--target", "null", "--report", tmp_path / "r.json")
    assert found.code in (0, 5), found.err
    judged = stored.load(tmp_path / "r.json").storage_health
    assert judged is not None
    assert (judged.status, judged.status_ours) == ("NOT MEASURED", "NOT MEASURED")


def _hits(found: HealthDocument) -> tuple[Judged, Judged]:
    return found.criteria[HITS].theirs, found.criteria[HITS].ours


def test_hit_rates_come_from_the_recording(tmp_path: Path) -> None:
    """60 reads and 20 look-ups of what was gone: 75 %; of 400 blocks 100 found: 25 %."""
    statistics = {
        "blocks": 400, "hit_blocks": {"nvme": 60, "cpu": 40}, "ideal_hit_blocks": 120,
    }  # fmt: skip
    made = write_ops(tmp_path / "r.parquet", NVME_READ, count=60, statistics=statistics)
    found = stored.load(made).storage_health
    assert found is not None
    theirs, ours = _hits(found)
    assert (theirs.actual, theirs.passed, theirs.count) == (0.75, True, 80)
    assert (ours.actual, ours.passed, ours.count) == (0.25, False, 400)
    assert (found.status, found.status_ours) == ("PASS", "FAIL")


def test_a_part_of_a_recording_has_no_hit_rate(tmp_path: Path) -> None:
    """The recording's counts are of all of it."""
    statistics = {
        "blocks": 400, "hit_blocks": {"nvme": 100}, "ideal_hit_blocks": 120,
        "replay": {"whole": False},
    }  # fmt: skip
    made = write_ops(tmp_path / "r.parquet", NVME_READ, count=60, statistics=statistics)
    found = stored.load(made).storage_health
    assert found is not None
    assert [each.passed for each in _hits(found)] == [None, None]
