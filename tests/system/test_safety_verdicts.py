"""Nothing measured is never a success, and a verdict says what was verified."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import replay
from kvtrace.trace.schema import Op, Phase, Tier
from replay import ReplayOptions, Result
from replay.ops.contract import Verify
from replay.payload.stamps import SAMPLE_ONE_IN, verifies_body
from replay.result.invalid import CODES
from replay.result.verdict import UNVERIFIED
from replay.watch import Silent
from tests.support.traces import MIB, Row, file_target, null_target, simple_rows, write_trace

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

R, D, L = Op.READ, Op.DELETE, Op.LOOKUP
SIZE = 16 << 10


def run(folder: Path, rows: list[Row], *, null: bool = False, **options: Any) -> Result:
    """Replay rows on a new file, or on nothing."""
    trace = write_trace(folder / "trace.parquet", rows)
    base = {"arena_bytes": 16 * MIB, "io_size_bytes": MIB, "settle_ns": 0, "min_window_ns": 0}
    path = folder / "target"
    chosen = ReplayOptions(**({"run_id": 7} | base | options))
    return replay.run(trace, [null_target() if null else file_target(path)], chosen)


def reasons(result: Result) -> set[str]:
    """Return why it is INVALID, but for how busy this machine is."""
    return {reason.code for reason in result.verdict.reasons} - {"host_lateness", "device_shared"}


def warnings(result: Result) -> set[str]:
    """Return the codes of its warnings."""
    return {warning.code for warning in result.verdict.warnings}


def reads(count: int) -> list[Row]:
    """Objects that are read once each."""
    return [(i * 20_000, R, Tier.NVME, i, Phase.DECODE, SIZE) for i in range(count)]


@pytest.mark.parametrize(
    "accept", [CODES, pytest.param((), marks=pytest.mark.slow)], ids=["all accepted", "plain"]
)
@pytest.mark.parametrize("null", [True, False], ids=["null", "file"])
@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (simple_rows(4), {"warmup_ns": 10**12}),
        (simple_rows(4), {"warmup_ns": 10**12, "mode": "max"}),
        (simple_rows(4), {"warmup_ns": 10**12, "mode": "closed"}),
        ([(0, L, Tier.NVME, 1, Phase.DECODE, 0), (5, L, Tier.NVME, 1, Phase.DECODE, 0)], {}),
        ([(0, D, Tier.NVME, 1, Phase.EVICT, SIZE), (9, D, Tier.NVME, 2, Phase.EVICT, SIZE)], {}),
    ],
    ids=["warmup", "warmup-max", "warmup-closed", "lookups", "deletes"],
)
def test_nothing_measured_is_invalid(
    rows: list[Row], options: dict[str, Any], null: bool, accept: tuple[str, ...], direct_path: Path
) -> None:
    """Whatever was accepted, a run without a single latency ends with 5."""
    if not null:  # a run that writes nothing wants the target to be there
        run(direct_path, simple_rows(4))
    result = run(direct_path, rows, null=null, accept=accept, **options)
    assert "nothing_measured" in reasons(result)
    assert not result.verdict.acceptable


def test_every_stamp_and_some_bodies_are_checked_by_default(direct_path: Path) -> None:
    """The default verifies whole bodies of one read in 128, and says how many."""
    result = run(direct_path, reads(1000), speed=10.0)
    info = result.payload
    expected = [op for op in range(1000) if verifies_body(Verify.SAMPLE, op, 7)]
    assert info.verify == "sample"
    assert info.checked_bytes == 1000 * SIZE
    assert info.body_reads == len(expected)
    assert info.body_bytes == len(expected) * SIZE
    share = (len(expected) + (1000 - len(expected)) / 32) / 1000
    assert info.coverage_ratio == pytest.approx(share)
    assert f"every byte of {len(expected)} of 1,000 reads" in info.coverage
    assert "stamps_only" not in warnings(result)
    assert not result.verdict.marks


def test_a_sample_is_a_share_that_the_run_id_chooses() -> None:
    """About one in 128, others for another run id, the same for the same."""
    chosen = [
        [op for op in range(100_000) if verifies_body(Verify.SAMPLE, op, run_id)]
        for run_id in (1, 2, 1)
    ]
    assert all(0.8 < len(ops) * SAMPLE_ONE_IN / 100_000 < 1.2 for ops in chosen)
    assert chosen[0] == chosen[2] != chosen[1]


@pytest.mark.parametrize("engine", ["auto", "threads", "python"])
def test_a_changed_bit_in_a_sampled_body_is_found(engine: str, direct_path: Path) -> None:
    """Reads that are sampled fail where the body changed, others don't; all engines agree."""
    count, run_id = 400, 7
    rows = reads(count)
    path = direct_path / "target"

    class Damage(Silent):
        """Changes a bit in the body of every sector once all objects are written."""

        def stage(self, name: str, total: int | None) -> None:
            if name != "settling":
                return
            data = bytearray(path.read_bytes())
            for at in range(MIB, len(data), 512):
                data[at + 300] ^= 1
            with path.open("r+b") as file:
                file.seek(MIB)
                file.write(data[MIB:])

    trace = write_trace(direct_path / "trace.parquet", rows)
    options = ReplayOptions(
        arena_bytes=16 * MIB, io_size_bytes=MIB, settle_ns=0, min_window_ns=0, run_id=run_id,
        engine=engine, speed=1.0,
    )  # fmt: skip
    result = replay.run(trace, [file_target(path)], options, watcher=Damage())
    expected = sum(verifies_body(Verify.SAMPLE, op, run_id) for op in range(count))
    assert expected > 0
    assert result.errors == {"verify_failed": expected}
    assert "the right stamp and a wrong body" in result.payload.mismatches[0]


def test_stamps_only_is_said(direct_path: Path) -> None:
    """With --verify stamps the verdict says that 3 % of the bytes were compared."""
    result = run(direct_path, reads(50), verify="stamps")
    assert "stamps_only" in warnings(result)
    assert result.payload.coverage == "stamps only (3.1% of bytes)"
    assert result.payload.coverage_ratio == pytest.approx(1 / 32)


@pytest.mark.parametrize("options", [{"payload": "fresh"}, {"arena_bytes": MIB}], ids=str)
def test_a_sample_without_an_arena_is_stamps(direct_path: Path, options: dict[str, Any]) -> None:
    """Bytes that aren't kept can't be compared: the report doesn't claim it."""
    rows: list[Row] = [(i, R, Tier.NVME, i, Phase.DECODE, 2 * MIB) for i in range(5)]
    result = run(direct_path, rows, **options)
    assert result.payload.verify == "stamps"
    assert "stamps_only" in warnings(result)


def test_full_covers_every_byte(direct_path: Path) -> None:
    """No warning, and the words for it."""
    result = run(direct_path, reads(50), verify="full")
    assert result.payload.coverage == "every byte"
    assert result.payload.coverage_ratio == 1.0
    assert "stamps_only" not in warnings(result)


@pytest.mark.parametrize(
    "options", [{"verify": "none"}, {"dedup_ratio": 2, "payload": "fresh"}], ids=str
)
def test_no_verification_leaves_a_mark(direct_path: Path, options: dict[str, Any]) -> None:
    """A run whose reads nobody looked at isn't plainly VALID."""
    result = run(direct_path, reads(50), **options)
    assert UNVERIFIED in {mark.code for mark in result.verdict.marks}
    assert result.payload.coverage == "no read was verified"


def test_a_null_target_has_nothing_to_verify(direct_path: Path) -> None:
    """Where no bytes move there is no mark."""
    result = run(direct_path, reads(50), null=True)
    assert not result.verdict.marks
