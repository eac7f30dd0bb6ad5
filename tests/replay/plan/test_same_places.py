"""What is exported to offsets does its I/O where a replay does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtrace.errors import UsageError
from kvtrace.formats.common import exporting as exporters
from kvtrace.formats.common.exporting import ExportOptions
from kvtrace.formats.common.sidecar import map_path
from kvtrace.placement import extents
from kvtrace.placement.defaults import SLACK_RATIO
from kvtrace.placement.extents import RESERVED_BYTES, Space, lane_of_tier
from kvtrace.placement.rows import TraceRows
from kvtrace.placement.survey import survey
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Tier
from replay.plan.geometry import Geometry
from replay.plan.planner import Planner, make_ring
from tests.support.examples import examples
from tests.support.making import Row, write_rows
from tests.support.random_rows import traces

if TYPE_CHECKING:
    from pathlib import Path


MIB = 1 << 20


def planned_places(path: Path, size_bytes: int | None) -> list[tuple[int, int]]:
    """Return where a replay's plan reads and writes on a device of such a size."""
    with open_trace(path) as trace:
        lanes = lane_of_tier((Tier.NVME,))
        found = survey(TraceRows(trace), lanes)
        (need,) = extents.needs(found, (Space(4096, RESERVED_BYTES, None),), SLACK_RATIO)
        size = need.size_bytes if size_bytes is None else size_bytes - RESERVED_BYTES
        spaces = (Space(4096, RESERVED_BYTES, extents.align_up(max(1, size), 4096)),)
        geometry = Geometry(lanes, spaces, 1 << 24, 4 * MIB)
        ops = make_ring(found, closed=False, divided=True)
        space_lanes = extents.lanes((need,), spaces, SLACK_RATIO)
        planner = Planner(TraceRows(trace), found, space_lanes, geometry, ops)
        while planner.advance(0):
            pass
    kinds = ops.cell[: planner.planned] >> 2 & 3
    moves = kinds <= Op.WRITE
    offsets = ops.offset_bytes[: planner.planned][moves].tolist()
    lengths = ops.length_sectors[: planner.planned][moves].tolist()
    return [(at, length * 512) for at, length in zip(offsets, lengths, strict=True)]


@pytest.mark.slow
@settings(max_examples=examples(40))
@given(rows=traces(), large=st.booleans())
def test_the_log_and_the_plan_agree(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], large: bool
) -> None:
    """A log for fio has the offsets and lengths of a replay on a device of the same size."""
    folder = tmp_path_factory.mktemp("places")
    path = write_rows(folder / "t.parquet", rows)
    size_bytes = 32 * MIB if large else None
    options = ExportOptions(size_bytes=size_bytes, fio_version="3.33")
    moves = any(tier is Tier.NVME and op <= Op.WRITE for _, op, _, tier, _, _ in rows)
    with open_trace(path) as trace:
        if not moves:
            with pytest.raises(UsageError, match="nothing to export"):
                exporters.export(trace, folder / "t.log", "fio", options)
            return
        exporters.export(trace, folder / "t.log", "fio", options)
    found = pl.read_parquet(map_path(folder / "t.log")).select("offset", "bytes").rows()
    assert found == planned_places(path, size_bytes)


def test_a_recorded_trace_is_placed_as_in_a_replay(tmp_path: Path, small_trace: Path) -> None:
    """So does one of thousands of rows under pressure."""
    options = ExportOptions(fio_version="3.33")
    with open_trace(small_trace) as trace:
        exporters.export(trace, tmp_path / "t.log", "fio", options)
    found = pl.read_parquet(map_path(tmp_path / "t.log")).select("offset", "bytes").rows()
    assert found == planned_places(small_trace, None)
