"""A measured tier as aisimulate's `g3_offload` block.

Source: ai-dynamo/aisimulate (2026): `G3OffloadConfig` of its typed engine input, and its page on
`kv_cache`. `scope` and `num_g3_blocks` are required; latency is in ms, bandwidths are decimal GB/s
per worker, and bytes those of one tensor-parallel shard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.breakeven.answer import Timed
from kvtrace.errors import UsageError

if TYPE_CHECKING:
    from kvtrace.breakeven.ask import BreakEven
    from kvtrace.breakeven.recompute import Values
    from kvtrace.trace.header import Header
    from kvtrace.trace.schema import Tier


def text(answered: BreakEven) -> str:
    """Return the block as YAML. Raises UsageError for an answer that nothing was measured for."""
    answer, times, header = answered.answer, answered.times, answered.header
    if not isinstance(answer, Timed) or times is None or header is None:
        raise UsageError(
            "needs a replay's result", where="--export", accepted="kvtrace replay --out RESULT"
        )
    latency_s, read_per_s = fit(answer.loads.moved_bytes, answer.load_s)
    written = times.written
    ranks = (header.tensor_parallel or 1) if header.ranks != "one" else 1
    lines = [
        f"# tier {answer.tier.label}: {len(answer.loads):,} loads of a replay, fitted as latency + "
        "bytes / bandwidth",
        f"# bandwidths are of one tensor-parallel shard: the node's / {ranks}",
        "g3_offload:",
        "  scope: worker_local",
        *_blocks(header, answer.tier),
        f"  latency_to_first_byte_ms: {latency_s * 1e3:.4g}",
        f"  read_bandwidth_gbps: {read_per_s / ranks / 1e9:.4g}",
    ]
    if written.busy_s > 0:
        rate = written.moved_bytes / written.busy_s / ranks
        lines.append(f"  write_bandwidth_gbps: {rate / 1e9:.4g}")
    else:
        lines.append("  # write_bandwidth_gbps: nothing was written to the tier")
    return "\n".join(lines) + "\n"


def fit(moved_bytes: Any, load_s: Values) -> tuple[float, float]:
    """Return (latency in s, bytes/s) of the line through loads, by least squares.

    Without a latency where the line's would be negative, or where all loads are of one size.
    """
    moved = np.asarray(moved_bytes, np.float64)
    middle, mean_s = moved.mean(), load_s.mean()
    spread = ((moved - middle) ** 2).sum()
    if spread > 0:
        slope = ((moved - middle) * (load_s - mean_s)).sum() / spread
        latency_s = mean_s - slope * middle
        if slope > 0 and latency_s >= 0:
            return float(latency_s), float(1 / slope)
    return 0.0, float(moved.sum() / load_s.sum())


def _blocks(header: Header, tier: Tier) -> list[str]:
    """Return the line of the capacity; a comment where the trace's tier has no limit."""
    capacity = {info.name: info.capacity_bytes for info in header.tiers}.get(tier.label)
    layout = header.layout or {}
    tokens, stored = layout.get("block_tokens"), layout.get("stored_bytes_per_token")
    if not capacity or not tokens or not stored:
        return ["  # num_g3_blocks: required; the trace's tier has no limit"]
    return [f"  num_g3_blocks: {int(capacity // (tokens * stored))}  # of {tokens} tokens"]
