"""What a what-if costs: block references per CPU-second, and the simulator against libCacheSim.

CPU time of this process. Medians of `--repeats` runs, with the range.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libcachesim
import numpy as np

from kvtrace.hierarchy.hierarchy import CutRequests, Hierarchy
from kvtrace.hierarchy.native import RUN
from kvtrace.hierarchy.spec import HierarchySpec, TierSpec
from kvtrace.native.hashmap import Interner
from kvtrace.recording.config import load_config
from kvtrace.requests.request import Ragged, RequestBatch
from kvtrace.trace.schema import Tier
from kvtrace.whatif.curve import lru_hits, write_oracle
from kvtrace.whatif.grid import outcomes
from kvtrace.whatif.references import References, collect
from kvtrace.whatif.workload import Configured

if TYPE_CHECKING:
    from collections.abc import Callable

REQUESTS: dict[str, Any] = {
    "model": "llama3.1-70b",
    "layout": "vllm",
    "tensor_parallel": 8,
    "source.rate": 5.0,
    "tiers.gpu.capacity": "10GiB",
    "duration": "30min",
}
"""A node of 8 GPUs, 16-token blocks, whose tiers are too small for most of what is tried."""
TRIED = [
    {"tiers.cpu.capacity": cpu, "tiers.nvme.capacity": nvme, "eviction": policy}
    for cpu, nvme in (("200GiB", "1TiB"), ("1TiB", "8TiB"))
    for policy in ("lru", "s3-fifo")
]
BAR_PER_CPU_S = 5_000_000
BARS = {"recording": 1.0, "what-if": 1.5}
"""Times libCacheSim's touches."""
ONE_TIER_REFERENCES, ONE_TIER_BLOCKS, PROMPT_BLOCKS = 4_000_000, 1_000_000, 50


def cpu_s(run: Callable[[], object]) -> float:
    """Return the CPU seconds of a call."""
    begin = time.process_time()
    run()
    return time.process_time() - begin


def spread(values: list[float], form: str = ",.0f") -> str:
    """Return median and range."""
    low, high = format(min(values), form), format(max(values), form)
    return f"{statistics.median(values):{form}} ({low} … {high})"


def combinations(repeats: int) -> None:
    """Print the references per CPU-second of each combination, and of the ceiling."""
    workload = Configured(lambda tried: load_config(None, REQUESTS | tried))
    run = workload.reference_run()
    assert run is not None
    references = collect(run)  # reads and cuts the requests, too
    references.optimal_ratio(1000)
    print(f"{references.blocks:,} references to {references.distinct:,} blocks")
    for tried in TRIED:
        rates = []
        for _ in range(repeats):
            begin = time.process_time()
            (outcome,) = outcomes(workload, [tried], None)
            rates.append(outcome.stats.blocks / (time.process_time() - begin))
        reached = "reached" if statistics.median(rates) >= BAR_PER_CPU_S else "MISSED"
        rows = outcome.counter.rows / outcome.stats.blocks
        print(
            f"  {' '.join(str(v) for v in tried.values()):<22}{spread(rates)} per CPU-second, "
            f"{rows:.2f} ops each; bar {BAR_PER_CPU_S:,}: {reached}"
        )
    room = references.distinct // 10
    rates = [
        references.blocks / cpu_s(lambda: references.optimal_ratio(room)) for _ in range(repeats)
    ]
    print(f"  optimum               {spread(rates)} per CPU-second")
    rates = [references.blocks / cpu_s(lambda: lru_hits(references)) for _ in range(repeats)]
    print(f"  LRU at all sizes      {spread(rates)} per CPU-second")


def prompts(keys: np.ndarray[Any, np.dtype[np.int64]], blocks_each: int) -> CutRequests:
    """Return requests for so many blocks each, every block counting by itself."""
    count = len(keys) // blocks_each
    zeros = np.zeros(count, np.int64)
    batch = RequestBatch(
        arrival_ns=np.arange(count), think_ns=zeros, follow=zeros, chain=zeros, session=zeros,
        turn=zeros, last_turn=zeros.astype(np.bool_), input_tokens=zeros + blocks_each,
        output_tokens=zeros, qos=zeros, block_ids=None, turn_tokens=None,
    )  # fmt: skip
    ones = np.ones(len(keys), np.int64)
    each = zeros + blocks_each
    return CutRequests(batch, Ragged.from_counts(each, keys), ones, ones, RUN * ones, each)


def one_tier(repeats: int) -> None:
    """Print the speed of one LRU tier beside libCacheSim's, on the same touches."""
    rng = np.random.default_rng(0)
    weights = np.arange(1, ONE_TIER_BLOCKS + 1) ** -0.8
    keys = rng.choice(ONE_TIER_BLOCKS, ONE_TIER_REFERENCES, p=weights / weights.sum())
    room = ONE_TIER_BLOCKS // 10
    numbers = Interner().intern(keys) + 1
    pieces = {False: [prompts(keys, PROMPT_BLOCKS)], True: [prompts(numbers, PROMPT_BLOCKS)]}

    def ours(*, numbered: bool) -> Hierarchy:
        """As a recording simulates, or as a what-if does once it has numbered the blocks."""
        spec = HierarchySpec(tiers=(TierSpec(Tier.CPU, room, 1, 0),), tail_first=False)
        hierarchy = Hierarchy(spec, numbered=numbered, tallied_tokens=int(numbered))
        for _ in hierarchy.events(pieces[numbered]):
            pass
        return hierarchy

    ratio = ours(numbered=False).stats().hits[Tier.CPU] / len(keys)  # warms up
    assert ratio == ours(numbered=True).stats().hits[Tier.CPU] / len(keys)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "touches.oracleGeneral"
        write_oracle(keys, path)

        def theirs() -> float:
            reader = libcachesim.TraceReader(str(path), libcachesim.TraceType.ORACLE_GENERAL_TRACE)
            cache = libcachesim.LRU(cache_size=room, hashpower=ONE_TIER_BLOCKS.bit_length())
            missed, _ = cache.process_trace(reader)
            return 1 - float(missed)

        same = theirs()
        rates: dict[str, list[float]] = {"recording": [], "what-if": [], "libCacheSim": []}
        for _ in range(repeats):
            rates["recording"].append(len(keys) / cpu_s(lambda: ours(numbered=False)))
            rates["libCacheSim"].append(len(keys) / cpu_s(theirs))
            rates["what-if"].append(len(keys) / cpu_s(lambda: ours(numbered=True)))
    print(f"one LRU tier, {len(keys):,} touches, hit ratio {ratio:.3f} (libCacheSim {same:.3f})")
    medians = {name: statistics.median(found) for name, found in rates.items()}
    for name, found in rates.items():
        bar = f"; bar {BARS[name]}" if name in BARS else ""
        times = medians[name] / medians["libCacheSim"]
        print(f"  {name:<12} {spread(found)} per CPU-second, ratio {times:.2f}{bar}")
    touches = References(keys, np.ones(len(keys), np.bool_), np.arange(len(keys)), 1.0)
    all_sizes = [len(keys) / cpu_s(lambda: lru_hits(touches)) for _ in range(repeats)]
    print(f"  all sizes    {spread(all_sizes)} per CPU-second, in one pass")


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    combinations(arguments.repeats)
    one_tier(arguments.repeats)


if __name__ == "__main__":
    main()
