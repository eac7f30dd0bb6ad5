"""The profile of a trace: rates over time, bytes held, hits, sizes, reuse; one pass over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from kvtrace.native.library import contiguous
from kvtrace.tools.profile_keys import FOLLOWED_MAX, KeyProfile
from kvtrace.tools.profile_tier import TierProfile
from kvtrace.trace.outcomes import done_batches
from kvtrace.trace.schema import Op, Phase, Tier

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.trace.reader import Columns, Trace

SLICES_MAX = 200
_COLUMNS = ("timestamp", "op", "size", "tier", "key", "phase")


@dataclass(frozen=True, slots=True)
class Slices:
    """Equal parts of the time from the first row to the last; the last part may be shorter."""

    first_ns: int
    last_ns: int
    width_ns: int
    count: int

    @classmethod
    def of(cls, first_ns: int, last_ns: int) -> Slices:
        """Return at most `SLICES_MAX` parts of a time, ends included."""
        span_ns = last_ns - first_ns + 1
        width_ns = -(-span_ns // SLICES_MAX)
        return cls(first_ns, last_ns, width_ns, -(-span_ns // width_ns))

    @property
    def span_ns(self) -> int:
        """Time from the first row to the last."""
        return self.last_ns - self.first_ns

    def begin_ns(self) -> NDArray[np.int64]:
        """Return when each part begins."""
        return self.first_ns + np.arange(self.count) * self.width_ns


class Profile:
    """The figures of a trace over time, per tier and of its objects.

    `hits`, per tier and slice: objects that were read to serve requests (phase decode).
    `computed`: objects that were computed instead, written with phase prefill to `top`, the fastest
    tier that is. Both are told only where `by_request`: the rows know their requests.
    """

    def __init__(
        self, slices: Slices, top: Tier | None, *, by_request: bool, followed_max: int
    ) -> None:
        self.slices, self.top, self.by_request = slices, top, by_request
        self.rows = 0
        self.tiers: dict[Tier, TierProfile] = {}
        self.keys = KeyProfile(slices.count, followed_max)
        self.hits = np.zeros((len(Tier), slices.count), np.int64)
        self.computed = np.zeros(slices.count, np.int64)
        self.asked = 0
        """Touches that count for `keys.distances`, first ones included: those that ask."""

    @property
    def lasts(self) -> bool:
        """Whether there is time between rows, so that there are rates."""
        return self.slices.span_ns > 0

    @property
    def hit_ratio(self) -> float | None:
        """Objects read for requests ÷ those and the computed ones; None without any."""
        hits, missed = int(self.hits.sum()), int(self.computed.sum())
        return hits / (hits + missed) if self.by_request and hits + missed else None

    def moved(self, op: Op) -> int:
        """Return the bytes of all rows of an op, on all tiers."""
        return sum(tier.moved(op) for tier in self.tiers.values())

    def lru_hit_ratio(self, objects: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the hit ratio of a single LRU cache, for each capacity in `objects`."""
        values, up_to = self.keys.distances.sorted()
        shares = np.concatenate(([0.0], up_to))[np.searchsorted(values, objects, "left")]
        again = self.keys.distances.count
        ratio: NDArray[np.float64] = np.minimum(1.0, shares * again / max(1, self.asked))
        return ratio

    def lru_sizes(self, count: int = 120) -> NDArray[np.int64]:
        """Return sizes of caches in objects, evenly on a log scale, up to all that there are."""
        if not self.keys.objects:
            return np.zeros(0, np.int64)
        return np.unique(np.rint(np.geomspace(1, self.keys.objects, count)).astype(np.int64))

    def add_resident(self, resident: NDArray[np.void]) -> None:
        """Take the objects present at the start."""
        for number in np.unique(resident["tier"]):
            part = resident[resident["tier"] == number]
            keys = contiguous(part["key"])
            self._tier(number).add_resident(keys, part["size"].astype(np.int64))

    def add(self, columns: Columns) -> None:
        """Take the next rows."""
        op, tier, phase, key = (columns[name] for name in ("op", "tier", "phase", "key"))
        time, size = columns["timestamp"], columns["size"].astype(np.int64)
        end = size + columns["offset"].astype(np.int64) if "offset" in columns else size
        at = (time - self.slices.first_ns) // self.slices.width_ns
        self.rows += len(op)
        for number in np.unique(tier):
            own = tier == number
            self._tier(number).add(op[own], key[own], size[own], end[own], time[own], at[own])
        read = (op == Op.READ) & (phase == Phase.DECODE)
        written = (op == Op.WRITE) & (tier == (len(Tier) if self.top is None else self.top))
        computed = written & (phase == Phase.PREFILL)
        if self.by_request:
            np.add.at(self.hits, (tier[read], at[read]), 1)
            np.add.at(self.computed, at[computed], 1)
        asked = read | computed if self.by_request else read
        self.asked += int(asked.sum())
        stream = read | computed | (written & (phase == Phase.DECODE))
        moves = op <= Op.WRITE
        self.keys.add(key[moves], end[moves], at[moves], stream[moves], asked[moves])

    def _tier(self, number: int) -> TierProfile:
        tier = Tier(number)
        if tier not in self.tiers:
            self.tiers[tier] = TierProfile(self.slices.count)
        return self.tiers[tier]


def profile(trace: Trace, *, followed_max: int = FOLLOWED_MAX) -> Profile:
    """Return what a trace looks like. Raises TraceError for rows that aren't of the format.

    Memory grows with the objects that its tiers hold at a time; of all that it ever touches at most
    `followed_max` are followed.
    """
    prefilled = (pl.col("op").cast(pl.String) == "write") & (
        pl.col("phase").cast(pl.String).is_in(["prefill", "decode"])
    )
    ends = trace.collect(
        trace.lazy().select(
            first=pl.col("timestamp").min(),
            last=pl.col("timestamp").max(),
            tiers=pl.col("tier").cast(pl.String).filter(prefilled).unique().implode(),
        ),
        streaming=True,
    )
    first, last, tiers = ends.row(0)
    written = [tier for tier in Tier if tier.label in tiers]
    made = Profile(
        Slices.of(first or 0, last or 0),
        min(written, default=None),
        by_request="request" in trace.columns,
        followed_max=followed_max,
    )
    made.add_resident(trace.resident())
    names = (*_COLUMNS, "offset") if "offset" in trace.columns else _COLUMNS
    for columns in done_batches(trace, names):
        made.add(columns)
    return made
