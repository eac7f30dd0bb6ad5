"""LMCache's benchmark of its second level (lmcache bench l2 --format json)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from kvtrace.units import MS_NS, S_NS
from replay.compare.figures import BYTES_PER_S, COUNT, NS, Figure
from replay.measure.summaries import TITLES

if TYPE_CHECKING:
    from collections.abc import Iterator

FORM = "lmcache bench l2 --format json"
CAUTION = (
    "LMCache's L2 benchmark waits for a whole round of objects before the next, and is compared "
    "with tier nvme, whatever its adapter stores to"
)
_TITLE = "L2 Adapter Benchmark Result"
_OPS = {"Store": "write", "Load": "read"}
_SHOWN = ("p50", "p99")


def recognises(fields: dict[str, Any]) -> bool:
    """Return whether it is such a result.

    Source: LMCache, lmcache/cli/commands/bench/l2_adapter_bench/command.py at 0579047, and
    lmcache/cli/metrics/section.py at 6274ad6.
    """
    return fields.get("title") == _TITLE


def figures(fields: dict[str, Any]) -> tuple[Figure, ...]:
    """Return rates and failures of stores and loads; look-ups move nothing."""
    metrics = fields["metrics"]
    ops = [each for name, each in metrics.items() if name.startswith("op_")]
    ops = [each for each in ops if each["operation"] in _OPS]
    return tuple(_all(ops, metrics["config"])) if ops else ()


def _all(ops: list[dict[str, Any]], config: dict[str, Any]) -> Iterator[Figure]:
    failed = sum(op["total_keys"] - op["total_success"] for op in ops)
    yield Figure("failed ops", failed, COUNT, False)
    for op in ops:
        name = f"nvme {_OPS[op['operation']]}"
        moved = op["keys_per_round"] * config["data_size_kb"] * 1024
        took_ns = op["duration_avg_ms"] * MS_NS
        # Rounded to 10 µs there; infinite if a round was given up.
        if took_ns and math.isfinite(took_ns):
            yield Figure(f"{name} rate", moved * S_NS / took_ns, BYTES_PER_S, True)
        if op["keys_per_round"] == 1:  # else a round is no object's latency
            for quantile in _SHOWN:
                value = op[f"duration_{quantile}_ms"] * MS_NS
                if math.isfinite(value):
                    yield Figure(f"{name} {TITLES[quantile]}", value, NS, False)
