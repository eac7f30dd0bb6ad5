"""`check` finds each kind of violation, and is silent where nothing is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest

from kvtrace.errors import TraceError
from kvtrace.trace import check as module
from kvtrace.trace.check import MEANINGS, CheckReport, check
from kvtrace.trace.header import RESIDENT_DTYPE, Header, Resident, SourceInfo, TierInfo
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.trace.writer import TraceWriter
from tests.support.making import write_rows

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.making import Row

HEADER = Header(
    source=SourceInfo(name="test"),
    tiers=[
        TierInfo(name="gpu", capacity_bytes=100, occupancy_factor=2.0),
        TierInfo(name="cpu", capacity_bytes=100),
    ],
)
W = (0, Op.WRITE, 40, Tier.GPU, 1, Phase.PREFILL)
READ = (1, Op.READ, 40, Tier.GPU, 1, Phase.DECODE)
DEMOTE_READ = (1, Op.READ, 40, Tier.GPU, 1, Phase.EVICT)
DEMOTE_WRITE = (1, Op.WRITE, 40, Tier.CPU, 1, Phase.EVICT)
DELETE = (1, Op.DELETE, 40, Tier.GPU, 1, Phase.EVICT)

BROKEN: dict[int, list[Row]] = {
    module.READ_OF_DEAD: [W, DELETE, READ],
    module.READ_BEFORE_WRITE: [READ],
    module.DELETE_OF_DEAD: [W, DELETE, DELETE],
    module.READ_BEYOND_END: [W, (1, Op.READ, 41, Tier.GPU, 1, Phase.DECODE)],
    module.DELETE_SIZE: [W, (1, Op.DELETE, 39, Tier.GPU, 1, Phase.EVICT)],
    module.EVICT_WITHOUT_READ: [W, DEMOTE_WRITE],
    module.EVICT_WITHOUT_WRITE: [W, DEMOTE_READ, DELETE],
    module.OVER_CAPACITY: [W, (0, Op.WRITE, 11, Tier.GPU, 2, Phase.PREFILL)],
}


def found_in(path: Path, rows: list[Row], header: Header = HEADER) -> CheckReport:
    with open_trace(write_rows(path / "t.parquet", rows, header)) as trace:
        return check(trace)


def test_a_sound_trace_is_fine(tmp_path: Path) -> None:
    """Write, read, demotion, promotion and deletion in their order break nothing."""
    promote = (2, Op.WRITE, 40, Tier.GPU, 1, Phase.PROMOTE)
    rows = [W, READ, DEMOTE_READ, DEMOTE_WRITE, DELETE, (2, Op.READ, 40, Tier.CPU, 1, Phase.DECODE)]
    found = found_in(tmp_path, [*rows, promote])
    assert found.ok
    assert (found.peak_bytes[Tier.GPU], found.peak_bytes[Tier.CPU]) == (80, 40)


@pytest.mark.slow
@pytest.mark.parametrize("kind", BROKEN, ids=[MEANINGS[kind] for kind in BROKEN])
def test_finds(tmp_path: Path, kind: int) -> None:
    """Each kind of violation is found, in its row."""
    rows = BROKEN[kind]
    (violation,) = found_in(tmp_path, rows).violations
    assert violation.meaning == MEANINGS[kind]
    offending = 1 if kind == module.EVICT_WITHOUT_WRITE else len(rows) - 1
    assert violation.rows == (offending,)


def test_every_kind_is_tested() -> None:
    """There is no kind of violation without its test."""
    assert sorted(BROKEN) == list(range(len(MEANINGS)))


@pytest.mark.xfail(strict=True, reason="the canary: a broken trace must not pass")
def test_canary(tmp_path: Path) -> None:
    """The canary must fail; if it passes, `check` has gone blind."""
    assert found_in(tmp_path, BROKEN[module.READ_OF_DEAD]).ok


def test_counts_all_and_shows_the_first(tmp_path: Path) -> None:
    """Every offending row counts, the first few are shown."""
    rows = [(t, Op.READ, 1, Tier.GPU, t, Phase.DECODE) for t in range(50)]
    (violation,) = found_in(tmp_path, rows).violations
    assert (violation.count, violation.rows) == (50, (0, 1, 2, 3, 4))


def test_declared_residents_may_be_read(tmp_path: Path) -> None:
    """What is declared resident may be read and counts for occupancy."""
    resident = np.array([(0, 1, 40)], RESIDENT_DTYPE)
    path = tmp_path / "t.parquet"
    with TraceWriter(path, HEADER, resident=resident) as writer:
        names = ("timestamp", "op", "size", "tier", "key", "phase")
        writer.append({name: np.array([v]) for name, v in zip(names, READ, strict=True)})
    with open_trace(path) as trace:
        found = check(trace)
    assert found.ok
    assert found.rows == 1
    assert found.peak_bytes[Tier.GPU] == 80


def test_residents_of_imported_traces_are_derived(tmp_path: Path) -> None:
    """An imported trace's reads before writes are residents, and `check` says how many."""
    header = Header(source=SourceInfo(name="x"), resident=Resident(derived=True))
    found = found_in(tmp_path, [READ, READ], header)
    assert found.ok
    assert found.derived == 1


def test_results_of_a_replay_have_half_of_a_demotion(tmp_path: Path) -> None:
    """A replay's result has executed tiers only: a demotion's other half isn't missed there."""
    header = HEADER.model_copy(update={"statistics": {"replay": {"tiers": ["cpu"]}}})
    assert found_in(tmp_path, [DEMOTE_WRITE], header).ok


def test_hashed_keys(tmp_path: Path) -> None:
    """Keys may be any 64-bit numbers, not only dense ones."""
    keys = [(1 << 64) - 1, 1 << 63, 0]
    rows = [(0, Op.WRITE, 1, Tier.CPU, key, Phase.PREFILL) for key in keys]
    assert found_in(tmp_path, rows + [(1, Op.READ, 1, *row[3:5], Phase.DECODE) for row in rows]).ok


def test_totals_of_other_rows_are_refused(small_trace: Path, tmp_path: Path) -> None:
    """A header that was kept when rows were left out is found out."""
    with pq.ParquetFile(small_trace) as file:
        kept = file.read().replace_schema_metadata(file.metadata.metadata)
    pq.write_table(kept.slice(0, 1000), tmp_path / "t.parquet")
    with (
        open_trace(tmp_path / "t.parquet") as trace,
        pytest.raises(TraceError, match=r"totals aren't those of the rows: rows: got .* 1000"),
    ):
        check(trace)
