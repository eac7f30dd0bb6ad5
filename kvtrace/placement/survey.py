"""Pass 1 over a trace: which objects there are, how long, what must exist before the clock starts.

Streams the rows. Memory grows with the objects that are live at once, and with those that are there
before the first row; what is known of each life goes to temporary files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import TraceError
from kvtrace.native.library import contiguous
from kvtrace.placement.keys import KeyTable, carried
from kvtrace.placement.objects import LANE_BITS, LIVE, NO_CHANGE, OBJECT, ORIGINAL, Tally
from kvtrace.placement.rows import SESSION_COLUMNS, Batch, RowSource, read_batches, stream_keys
from kvtrace.placement.spool import Spool
from kvtrace.trace.schema import Op, Phase, Tier

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


@dataclass(slots=True)
class Survey:
    """What pass 1 found."""

    originals: NDArray[np.void]
    """Objects that are there before the first row."""
    lives: Spool
    """Of each later life of an object, in order of birth: its length and lane (`LANE_BITS`)."""
    changes: Spool
    """What begins and ends, in order (`NO_CHANGE`)."""
    slots: int
    """How many slots there are: most lives at once."""
    original_of: NDArray[np.int64]
    """Which of `originals` an index among the changes means; -1: one that never was."""
    cell_ops: NDArray[np.int64]
    cell_bytes: NDArray[np.int64]
    """Per tier × phase × op, of all rows."""
    rows: int
    last_ns: int
    executed_ops: int
    original_reads: int
    """Reads of bytes that the run itself hasn't written: they need populating."""
    beyond_reads: int
    """Reads past the end of what had been written."""
    longest_bytes: int
    """The longest object."""
    sessions: int
    """Distinct sessions, and requests without one; 0 unless asked for."""
    failed_rows: int = 0
    """Ops that had failed and are left out."""
    repeats_from: int | None = None
    """Which of `lives` is the first of those that begin in every further round; None: no rounds."""

    def has_writes(self, tier: Tier) -> bool:
        """Whether rows of a tier write."""
        return bool(self.cell_ops[tier, :, Op.WRITE].any())

    def changes_objects(self, tier: Tier, *, deletes: bool) -> bool:
        """Whether rows of a tier write, or delete where that is work for the target."""
        return self.has_writes(tier) or (deletes and bool(self.cell_ops[tier, :, Op.DELETE].any()))


def survey(
    rows: RowSource,
    lane_of_tier: NDArray[np.int8],
    progress: Callable[[int], None] = lambda rows: None,
    *,
    count_sessions: bool = False,
) -> Survey:
    """Return what `rows` need. Raises TraceError for a dead read."""
    return survey_whole(rows, lane_of_tier, progress, count_sessions=count_sessions)[0]


def survey_whole(
    rows: RowSource,
    lane_of_tier: NDArray[np.int8],
    progress: Callable[[int], None] = lambda rows: None,
    *,
    count_sessions: bool = False,
) -> tuple[Survey, Surveyor]:
    """Return what `rows` need, and the state behind the last of them. Raises as `survey`."""
    state = Surveyor(max(1, int(lane_of_tier.max()) + 1))
    state.add_resident(rows.resident(), lane_of_tier)
    sessions = KeyTable()
    count, last_ns, failed = 0, 0, 0
    for batch in read_batches(rows, SESSION_COLUMNS if count_sessions else ()):
        state.add(batch, lane_of_tier)
        if (row := state.tally.bad_row) >= 0:
            tier = Tier(batch.tier[row])
            raise dead_read(rows, batch.first_row + row, int(batch.key[row]), tier)
        if count_sessions:
            sessions.add(stream_keys(batch))
        count, failed = batch.first_row + len(batch.op), failed + batch.failed
        last_ns = int(batch.timestamp_ns[-1])
        progress(count)
    state.finish()
    originals = _without_ghosts(rows, lane_of_tier, state)
    result = state.result(count, last_ns, originals, sessions.count)
    result.failed_rows = failed
    return result, state


def dead_read(rows: RowSource, row: int, key: int, tier: Tier) -> TraceError:
    """Return the error of a trace that reads what it has deleted."""
    return TraceError(
        "read of a deleted object",
        where=f"{rows.path}: row {row}, column op",
        got=f"key {key} on tier {tier.label}",
        accepted="a read that follows a live write",
        hint="--with-failed executes the ops that had failed, a write among them"
        if "error" in rows.columns
        else "run `kvtrace check`",
    )


def _without_ghosts(
    rows: RowSource, lane_of_tier: NDArray[np.int8], state: Surveyor
) -> NDArray[np.bool_]:
    """Return the originals that were not deleted and forgotten.

    They seem to be touched for the first time, but an earlier row has them: a late read of one is a
    bad trace, a late delete of one does nothing.
    """
    originals = state.originals[: state.tally.original_count]
    late = (originals["initial"] > 0) & (originals["row"] >= state.first_sweep_row)
    if not late.any():
        return np.ones(len(originals), bool)
    ghosts = late & _touched_before(rows, lane_of_tier, originals, late)
    reads = np.flatnonzero(ghosts & (originals["deleted"] == 0))
    if len(reads):
        first = originals[reads[originals["row"][reads].argmin()]]
        tier = Tier(int(np.flatnonzero(lane_of_tier == first["lane"])[0]))
        raise dead_read(rows, int(first["row"]), int(first["key"]), tier)
    ended = originals["ended"][ghosts]
    state.changes.put(ended, np.full(len(ended), NO_CHANGE, np.int64))
    return ~ghosts


def _touched_before(
    source: RowSource,
    lane_of_tier: NDArray[np.int8],
    originals: NDArray[np.void],
    late: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Return which of the late originals an earlier row, or the list of residents, has."""
    touched = np.zeros(len(originals), bool)
    order = np.argsort(originals["key"], kind="stable")
    order = order[late[order]]
    keys = originals["key"][order]
    residents = set(
        zip(
            originals["key"][originals["resident"] > 0].tolist(),
            originals["lane"][originals["resident"] > 0].tolist(),
            strict=True,
        )
    )
    for at in order.tolist():
        touched[at] = (int(originals["key"][at]), int(originals["lane"][at])) in residents
    for batch in read_batches(source):
        lane = lane_of_tier[batch.tier]
        rows = np.flatnonzero((lane >= 0) & (batch.op != int(Op.LOOKUP)) & np.isin(batch.key, keys))
        for row in rows.tolist():
            first = int(np.searchsorted(keys, batch.key[row]))
            while first < len(keys) and keys[first] == batch.key[row]:
                at = order[first]
                earlier = batch.first_row + row < originals["row"][at]
                touched[at] |= bool(earlier and originals["lane"][at] == lane[row])
                first += 1
    return touched


class Surveyor:
    """Surveys rows as they come: residents first, then batches, then `finish`."""

    def __init__(self, lanes: int) -> None:
        self.table = KeyTable()
        self.objects = np.zeros((self.table.capacity, lanes), OBJECT)
        self.originals = np.zeros(1 << 12, ORIGINAL)
        self.lives, self.changes = Spool(), Spool()
        shape = (len(Tier), len(Phase), len(Op))
        self.cell_ops = np.zeros(shape, np.int64)
        self.cell_bytes = np.zeros(shape, np.int64)
        self.spare_slots = np.zeros(1 << 12, np.int32)
        self.tally = Tally(
            lanes=lanes, cell_ops=self.cell_ops, cell_bytes=self.cell_bytes, bad_row=-1
        )
        self.first_sweep_row = 1 << 62
        self.longest = 0

    def _reserve(self, count: int, first_row: int) -> None:
        """Make room for `count` more keys and originals, by forgetting the dead."""
        if not self.table.has_room(count):
            kept = (self.objects[: self.table.count]["state"] == LIVE).any(axis=1)
            if not kept.all():
                self.first_sweep_row = min(self.first_sweep_row, first_row)
            self.table.keep(kept, count)
            self.objects = carried(self.objects, kept, self.table.capacity)
        needed = self.tally.original_count + count
        if needed > len(self.originals):
            grown = np.zeros(max(needed, 2 * len(self.originals)), ORIGINAL)
            grown[: len(self.originals)] = self.originals
            self.originals = grown
        if self.tally.slot_count + count > len(self.spare_slots):
            self.spare_slots = np.pad(self.spare_slots, (0, max(count, len(self.spare_slots))))
        self.tally.set(
            entries=self.table.entries,
            mask=self.table.mask,
            keys=self.table.keys,
            key_count=self.table.count,
            objects=self.objects,
            originals=self.originals,
            spare_slots=self.spare_slots,
        )

    def add_resident(self, resident: NDArray[np.void], lane_of_tier: NDArray[np.int8]) -> None:
        """Make the declared residents of executed tiers live."""
        resident = resident[lane_of_tier[resident["tier"]] >= 0]
        self._reserve(len(resident), 0)
        lane = lane_of_tier[resident["tier"]].astype(np.int64)
        keys = contiguous(resident["key"])
        sizes = resident["size"].astype(np.int64)
        self.tally.add_resident(keys, lane, sizes)
        self.table.count = self.tally.key_count

    def add(self, batch: Batch, lane_of_tier: NDArray[np.int8]) -> None:
        """Take one slice of rows."""
        rows = len(batch.op)
        self._reserve(rows, batch.first_row)
        lives, changes = np.empty(rows, np.int64), np.empty(rows, np.int64)
        grown = np.empty((rows, 2), np.int64)
        tally, first_life = self.tally, self.tally.life_count
        tally.set(
            lives=lives, changes=changes, grown=grown, first_change=self.changes.count,
            change_count=0, grown_count=0,
        )  # fmt: skip
        tally.add(batch, lane_of_tier)
        self.table.count = tally.key_count
        born = lives[: tally.life_count - first_life]
        self.longest = max(self.longest, int(born.max(initial=0)) >> LANE_BITS)
        self.lives.append(born)
        self.changes.append(changes[: tally.change_count])
        self._correct(grown[: tally.grown_count])

    def _correct(self, grown: NDArray[np.int64]) -> None:
        """Note the final lengths of lives that became longer than their first write."""
        self.longest = max(self.longest, int(grown[:, 1].max(initial=0)) >> LANE_BITS)
        self.lives.put(grown[:, 0], grown[:, 1])

    def finish(self) -> None:
        """Note the lengths of what is still live."""
        all_objects = self.objects[: self.table.count]
        index, lane = np.nonzero(all_objects["state"] == LIVE)
        live = all_objects[index, lane]
        mine = live["life"] < 0
        self.originals["length"][-1 - live["life"][mine]] = live["length"][mine]
        grown = (live["grown"] > 0) & ~mine
        pairs = (live["life"][grown], live["length"][grown] << LANE_BITS | lane[grown])
        self._correct(np.stack(pairs, axis=1))

    def result(
        self, rows: int, last_ns: int, kept: NDArray[np.bool_] | None, sessions: int
    ) -> Survey:
        """Return all that was found; `kept`: which originals there are, None for all."""
        tally = self.tally
        if kept is None:
            kept = np.ones(tally.original_count, bool)
        originals = self.originals[: len(kept)][kept]
        return Survey(
            originals,
            self.lives,
            self.changes,
            tally.slot_count,
            np.where(kept, np.cumsum(kept) - 1, -1),
            self.cell_ops,
            self.cell_bytes,
            rows,
            last_ns,
            executed_ops=tally.executed,
            original_reads=tally.original_reads,
            beyond_reads=tally.beyond_reads,
            longest_bytes=max(self.longest, int(originals["length"].max(initial=0))),
            sessions=sessions,
        )
