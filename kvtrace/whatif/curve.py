"""Miss-ratio curves of one tier, object-wise: LRU at all sizes in one pass, other policies too.

LRU keeps at any size what it keeps at a smaller one, so that a touch is a hit wherever the cache
holds more blocks than were touched since: its reuse distance says it for all sizes. Other policies
have no such order; libCacheSim simulates them at each size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.errors import unknown_name
from kvtrace.formats.oracle.record import NEVER, RECORD
from kvtrace.trace.reuse import ReuseDistances
from kvtrace.whatif.simulated import hits_apart, need_library

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from kvtrace.whatif.references import References

LRU, OPTIMAL = "lru", "opt"
SIMULATED = {
    "2q": "TwoQ",
    "arc": "ARC",
    "cacheus": "Cacheus",
    "clock": "Clock",
    "fifo": "FIFO",
    "lecar": "LeCaR",
    "lfu": "LFU",
    "lhd": "LHD",
    "lirs": "LIRS",
    "s3-fifo": "S3FIFO",
    "sieve": "Sieve",
    "slru": "SLRU",
    "w-tinylfu": "WTinyLFU",
}
"""Policies that libCacheSim simulates, and its names for them."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Miss ratio of a policy at each number of blocks; None where it can't be simulated."""

    policy: str
    blocks: tuple[int, ...]
    miss_ratio: tuple[float | None, ...]


def sizes(distinct: int, count: int) -> tuple[int, ...]:
    """Return up to `count` numbers of blocks from 1 to `distinct`, evenly on a log scale."""
    if distinct < 1:
        return ()
    spaced = np.rint(np.geomspace(1, distinct, count)).astype(np.int64)
    return tuple(np.unique(spaced).tolist())


def lru_hits(references: References) -> NDArray[np.int64]:
    """Return the hits of an LRU cache of 0, 1, 2 … blocks, up to all that there are."""
    distances = ReuseDistances().add(references.key)
    counted = distances[references.asked & (distances >= 0)]
    histogram = np.bincount(counted + 1, minlength=references.distinct + 1)
    hits: NDArray[np.int64] = np.cumsum(histogram)
    return hits


def lru_curve(references: References, blocks: Sequence[int]) -> Curve:
    """Return the exact curve of LRU."""
    hits = lru_hits(references)[list(blocks)]
    return _curve(LRU, references, blocks, hits.tolist())


def optimal_curve(references: References, blocks: Sequence[int]) -> Curve:
    """Return the curve below which no policy gets."""
    missed = [1 - references.optimal_ratio(room) for room in blocks]
    return Curve(OPTIMAL, tuple(blocks), tuple(missed))


def simulated_curves(
    references: References, policies: Sequence[str], blocks: Sequence[int]
) -> Iterator[Curve]:
    """Yield the curves of policies that libCacheSim simulates.

    Raises UsageError for an unknown policy, TargetError without libCacheSim.
    """
    for policy in policies:
        if policy not in SIMULATED:
            raise unknown_name("policy", policy, SIMULATED, where="--policies")
    if not policies:
        return
    need_library()
    with TemporaryDirectory(prefix="kvtrace-") as folder:
        path = Path(folder) / "references.oracleGeneral"
        write_oracle(references.key, path)
        for policy in policies:
            # What is generated is stored, not asked for: it is new, a miss that doesn't count.
            hits = hits_apart(
                str(path), SIMULATED[policy], blocks, references.distinct, len(references.key)
            )
            yield _curve(policy, references, blocks, hits)


def write_oracle(key: NDArray[np.int64], path: Path) -> None:
    """Write touches of blocks of size 1 in libCacheSim's format, each with its next access."""
    rows = np.zeros(len(key), RECORD)
    rows["time"], rows["id"], rows["size"], rows["next"] = np.arange(len(key)), key, 1, NEVER
    order = np.lexsort((np.arange(len(key)), key))
    again = key[order][1:] == key[order][:-1]
    rows["next"][order[:-1][again]] = order[1:][again]
    rows.tofile(path)


def _curve(
    policy: str, references: References, blocks: Sequence[int], hits: Sequence[int | None]
) -> Curve:
    asked = max(1, references.blocks)
    missed = [None if hit_count is None else 1 - hit_count / asked for hit_count in hits]
    return Curve(policy, tuple(blocks), tuple(missed))
