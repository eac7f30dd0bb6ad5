"""Compares two traces tier by tier: sizes, reuse distances, gaps between ops, reads and writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.native.core import function
from kvtrace.native.hashmap import Pool
from kvtrace.native.library import BOOLEAN, I64, INT, POINTER, U8
from kvtrace.tools.distribution import Distribution, distances
from kvtrace.trace.outcomes import done_batches
from kvtrace.trace.reuse import FIRST, ReuseDistances
from kvtrace.trace.schema import Op, Tier

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.trace.reader import Columns, Trace

QUANTITIES = {
    "size": "bytes",
    "reuse_distance": "objects",
    "gap": "ns",
}
"""What is compared, and its unit: sizes of reads and writes; other objects touched on the tier
between two touches of one; time from an op to the next on the tier."""

_KEY = np.dtype([("key", "i8"), ("next", "i8")])
_number = function("kv_number", POINTER, U8, I64, INT, I64, returns=BOOLEAN)


class _Numbers:
    """Small numbers for the keys that are there."""

    def __init__(self) -> None:
        self._pool = Pool(_KEY)

    def of(self, op: NDArray[np.uint8], key: NDArray[np.uint64]) -> NDArray[np.int64]:
        self._pool.make_room(len(op))
        out = np.empty(len(op), np.int64)
        numbered = _number(self._pool.address, op, key.view(np.int64), len(op), out)
        assert numbered
        return out


class _OfTier:
    """What one tier of one trace amounts to."""

    def __init__(self) -> None:
        self.quantities = {name: Distribution() for name in QUANTITIES}
        self.bytes = {Op.READ: 0, Op.WRITE: 0}
        self._numbers, self._reuse = _Numbers(), ReuseDistances()
        self._last_ns: int | None = None

    def add(self, columns: Columns) -> None:
        times, op, size = columns["timestamp"], columns["op"], columns["size"]
        moves = op <= Op.WRITE
        self.quantities["size"].add(size[moves].astype(np.int64))
        for kind in self.bytes:
            self.bytes[kind] += int(size[op == kind].sum(dtype=np.uint64))
        before = times[:1] if self._last_ns is None else [self._last_ns]
        gaps = np.diff(np.concatenate((before, times)))
        self.quantities["gap"].add(gaps[1:] if self._last_ns is None else gaps)
        self._last_ns = int(times[-1])
        touches = op != Op.LOOKUP
        gone = op[touches] == Op.DELETE
        numbers = self._numbers.of(op[touches], columns["key"][touches])
        distances = self._reuse.add(numbers, gone)
        self.quantities["reuse_distance"].add(distances[(distances != FIRST) & ~gone])

    @property
    def read_share(self) -> float:
        """Bytes read as a share of those moved."""
        return self.bytes[Op.READ] / max(1, sum(self.bytes.values()))


def _surveyed(trace: Trace) -> dict[Tier, _OfTier]:
    tiers: dict[Tier, _OfTier] = {}
    for columns in done_batches(trace, ("timestamp", "op", "size", "tier", "key")):
        for number in np.unique(columns["tier"]):
            of_tier = columns["tier"] == number
            part = {name: values[of_tier] for name, values in columns.items()}
            tiers.setdefault(Tier(number), _OfTier()).add(part)
    return tiers


@dataclass(frozen=True, slots=True)
class Difference:
    """One quantity of one tier in two traces. `ks`: 0 equal, 1 apart; `wasserstein` in `unit`."""

    tier: str
    quantity: str
    unit: str
    a: dict[str, float]
    b: dict[str, float]
    ks: float
    wasserstein: float | None


def _told(of: Distribution) -> dict[str, float]:
    return {
        "count": of.count,
        "mean": of.mean,
        "p50": of.quantile(0.5),
        "p99": of.quantile(0.99),
    }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Differences of two traces, and the distributions they are of, by tier and quantity."""

    differences: list[Difference]
    distributions: dict[tuple[str, str], tuple[Distribution, Distribution]]


def compare(a: Trace, b: Trace) -> list[Difference]:
    """Return how far two traces are apart, per tier that either has and per quantity.

    `read_share`, bytes read ÷ bytes read or written, has the difference as its `ks`. Memory grows
    with the objects that are there at a time.
    """
    return compared(a, b).differences


def compared(a: Trace, b: Trace) -> Comparison:
    """Return what `compare` does, and the distributions."""
    surveys = _surveyed(a), _surveyed(b)
    differences: list[Difference] = []
    distributions: dict[tuple[str, str], tuple[Distribution, Distribution]] = {}
    for tier in sorted(set(surveys[0]) | set(surveys[1])):
        ours, theirs = (survey.get(tier, _OfTier()) for survey in surveys)
        for name, unit in QUANTITIES.items():
            pair = ours.quantities[name], theirs.quantities[name]
            distributions[tier.label, name] = pair
            ks, wasserstein = distances(*pair)
            a_told, b_told = (_told(of) for of in pair)
            differences.append(Difference(tier.label, name, unit, a_told, b_told, ks, wasserstein))
        shares = ours.read_share, theirs.read_share
        apart = abs(shares[0] - shares[1]) if all(tier in survey for survey in surveys) else 1.0
        a_told, b_told = ({"mean": share} for share in shares)
        differences.append(
            Difference(tier.label, "read_share", "ratio", a_told, b_told, apart, None)
        )
    return Comparison(differences, distributions)
