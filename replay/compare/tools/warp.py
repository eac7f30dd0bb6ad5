"""Results of warp: `warp analyze --json`, or the NAME.json.zst that a run leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvtrace.units import MS_NS
from replay.compare.figures import BYTES_PER_S, COUNT, NS, PER_S, Figure
from replay.measure.summaries import TITLES

if TYPE_CHECKING:
    from collections.abc import Iterator

FORM = "warp analyze --json"
CAUTION = (
    "warp's latencies are those of requests over a network, and beyond 10 s or for several sizes "
    "it has none that can be joined: compare its operation log (warp --full) for them"
)
_TIER = "object"
_OPS = {"GET": "read", "PUT": "write"}
_PERCENTILES = {"p50": "dur_median_millis", "p90": "dur_90_millis", "p99": "dur_99_millis"}


def recognises(fields: dict[str, Any]) -> bool:
    """Return whether it is warp's, of either structure.

    Source: minio/warp, pkg/aggregate/live.go at 0bd2663 (`by_op_type`), and
    pkg/aggregate/aggregate.go at 1666767 (`operations`: older, and with --full).
    """
    return ("by_op_type" in fields and "total" in fields) or (
        fields.get("type") in ("single", "mixed") and "operations" in fields
    )


def figures(fields: dict[str, Any]) -> tuple[Figure, ...]:
    """Return rates of the whole and per kind of op; latencies where there is one set of them."""
    return tuple(_live(fields) if "by_op_type" in fields else _analysed(fields))


def _live(fields: dict[str, Any]) -> Iterator[Figure]:
    yield from _total(fields["total"]["throughput"])
    yield Figure("failed ops", fields["total"]["total_errors"], COUNT, False)
    for kind, op in _OPS.items():
        if each := fields["by_op_type"].get(kind):
            segments = [s for of in (each["requests_by_client"] or {}).values() for s in of]
            sets = [s.get("single_sized_requests") for s in segments]
            yield from _op(op, each["throughput"], sets)


def _analysed(fields: dict[str, Any]) -> Iterator[Figure]:
    ops = {each["type"]: each for each in fields["operations"] if not each.get("skipped")}
    if fields["type"] == "mixed":
        yield from _total(fields["mixed_server_stats"])
    elif len(ops) == 1:
        yield from _total(*(each["throughput"] for each in ops.values()))
    if ops:
        yield Figure("failed ops", sum(each["errors"] for each in ops.values()), COUNT, False)
    for kind, op in _OPS.items():
        if kind in ops:
            sets = [ops[kind].get("single_sized_requests")]
            yield from _op(op, ops[kind]["throughput"], sets)


def _total(throughput: dict[str, Any]) -> Iterator[Figure]:
    rate, per_s = _rates(throughput)
    if rate is not None:
        yield Figure("throughput", rate, BYTES_PER_S, True)
    if per_s is not None:
        yield Figure("ops", per_s, PER_S, True)


def _rates(throughput: dict[str, Any]) -> tuple[float | None, float | None]:
    """Return bytes and ops per second; None of a run that is too short for warp to tell."""
    if "average_bps" in throughput:
        return throughput["average_bps"], throughput["average_ops"]
    took_ms = throughput["measure_duration_millis"]
    if not took_ms:
        return None, None
    return throughput["bytes"] * 1000 / took_ms, throughput["ops"] * 1000 / took_ms


def _op(op: str, throughput: dict[str, Any], sets: list[dict[str, Any] | None]) -> Iterator[Figure]:
    """Yield the rate, and the latencies of the only set of requests, of one size."""
    rate, _ = _rates(throughput)
    if rate:
        yield Figure(f"{_TIER} {op} rate", rate, BYTES_PER_S, True)
    known = [each for each in sets if each is None or not each.get("skipped")]
    if len(known) != 1 or known[0] is None:
        return
    for quantile, name in _PERCENTILES.items():
        yield Figure(f"{_TIER} {op} {TITLES[quantile]}", known[0][name] * MS_NS, NS, False)
