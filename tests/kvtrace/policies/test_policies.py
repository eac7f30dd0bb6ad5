"""Eviction policies, one tier of fixed-size blocks: the miss counts of libCacheSim, exactly."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from kvtrace import plugins
from kvtrace.hierarchy.hierarchy import CutRequests, Hierarchy
from kvtrace.hierarchy.native import RUN
from kvtrace.hierarchy.spec import HierarchySpec, TierSpec
from kvtrace.requests.request import Ragged, RequestBatch
from kvtrace.trace.schema import Tier
from tests.golden.traces import path_of
from tests.support.examples import rest_slow

libcachesim = pytest.importorskip("libcachesim", reason="libcachesim isn't installed")

THEIR_NAMES = {"lru": "LRU", "fifo": "FIFO", "sieve": "Sieve", "s3-fifo": "S3FIFO"}


def accesses(count: int, objects: int, skew: float, seed: int) -> np.ndarray:
    """Return object numbers, zipfian with drifting popularity and scans in between."""
    rng = np.random.default_rng(seed)
    drift = np.arange(count) // (count // 4) * (objects // 5)
    ids = (rng.zipf(skew, count) + drift) % objects
    scan = rng.integers(0, count - 200)
    ids[scan : scan + 200] = objects + np.arange(200)
    return ids.astype(np.int64)


def our_misses(ids: np.ndarray, policy: str, capacity: int) -> int:
    """Return how often a block isn't in a tier of `capacity` blocks."""
    zeros, ones = np.zeros(len(ids), np.int64), np.ones(len(ids), np.int64)
    batch = RequestBatch(
        arrival_ns=np.arange(len(ids)), think_ns=zeros, follow=zeros, chain=zeros, session=zeros,
        turn=zeros, last_turn=zeros.astype(np.bool_), input_tokens=ones, output_tokens=zeros,
        qos=zeros, block_ids=None, turn_tokens=None,
    )  # fmt: skip
    cut = CutRequests(batch, Ragged.from_counts(ones, ids), ones, ones, ones * RUN, ones)
    spec = HierarchySpec(
        tiers=(TierSpec(Tier.NVME, capacity, 1, eviction=policy),), tail_first=False
    )
    hierarchy = Hierarchy(spec)
    for _ in hierarchy.events([cut]):
        pass
    return len(ids) - hierarchy.stats().hits[Tier.NVME]


def their_misses(ids: np.ndarray, policy: str, capacity: int) -> int:
    """Return libCacheSim's count."""
    cache = getattr(libcachesim, THEIR_NAMES[policy])(capacity)
    request = libcachesim.Request()
    request.obj_size = 1
    misses = 0
    for number in ids.tolist():
        request.obj_id = number
        misses += not cache.get(request)
    return misses


def test_every_policy_in_the_folder_has_a_counterpart() -> None:
    """A policy that libCacheSim has under no name here would be tested by nothing."""
    assert plugins.names(plugins.POLICY) == sorted(THEIR_NAMES)


@pytest.mark.parametrize("policy", THEIR_NAMES)
@pytest.mark.parametrize(
    ("capacity", "skew"), rest_slow([(300, 1.2), (20, 1.3), (50, 1.1), (1000, 1.05)])
)
def test_misses_are_those_of_libcachesim(policy: str, capacity: int, skew: float) -> None:
    """Policy × size × skew: not one miss more or less."""
    ids = accesses(20_000, 3_000, skew, seed=capacity)
    assert our_misses(ids, policy, capacity) == their_misses(ids, policy, capacity)


def golden_accesses() -> np.ndarray:
    """Return the blocks that the bundled trace stores and reads, in order."""
    rows = pl.read_parquet(path_of("accesses")).filter(pl.col("op").is_in(["read", "write"]))
    return rows["key"].to_numpy().astype(np.int64)


GOLDEN_MISSES = {
    ("lru", 20): 616,
    ("lru", 60): 554,
    ("lru", 140): 494,
    ("fifo", 20): 616,
    ("fifo", 60): 560,
    ("fifo", 140): 516,
    ("sieve", 20): 587,
    ("sieve", 60): 529,
    ("sieve", 140): 491,
    ("s3-fifo", 20): 588,
    ("s3-fifo", 60): 538,
    ("s3-fifo", 140): 517,
}


@pytest.mark.parametrize(
    ("policy", "capacity"), rest_slow(sorted(GOLDEN_MISSES, key=lambda case: case[1]), quick=4)
)
def test_misses_on_the_bundled_trace(policy: str, capacity: int) -> None:
    """Policy × size on a golden trace: these counts, which are libCacheSim's."""
    ids = golden_accesses()
    misses = GOLDEN_MISSES[policy, capacity]
    assert our_misses(ids, policy, capacity) == misses
    assert their_misses(ids, policy, capacity) == misses
