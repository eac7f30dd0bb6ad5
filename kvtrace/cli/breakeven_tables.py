"""The figures of a break-even as tables and sentences, for terminals, pages and workbooks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvtrace.breakeven.answer import PERCENTILES, Timed, Workload, quantiles
from kvtrace.breakeven.curve import Curve
from kvtrace.show.numbers import short, short_rate, short_seconds, short_tokens
from kvtrace.units import format_bytes

if TYPE_CHECKING:
    from kvtrace.breakeven.ask import Answer

WAYS = {
    "recompute": "recompute only", "load": "load only", "best": "best of both per request",
    "both_ends": "both ends at once",
}  # fmt: skip
PERCENTILE_HEADS = tuple(f"P{percent}" for percent in PERCENTILES)


@dataclass(frozen=True, slots=True)
class Table:
    """A table of texts; the first column names its rows. `values`: by which a page sorts."""

    title: str
    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]
    values: list[tuple[float | None, ...]]


def tables(answer: Answer) -> Iterator[Table]:
    """Yield the tables of an answer."""
    if isinstance(answer, Curve):
        yield _lengths(answer)
        return
    yield _per_load(answer)
    if isinstance(answer, Timed):
        yield _first_token(answer)


def _lengths(answer: Curve) -> Table:
    heads = ["prefix", "bytes", "recompute", "needed"]
    if answer.load_s is not None:
        heads += ["load", "both ends"]
    rows: list[tuple[str, ...]] = []
    values: list[tuple[float | None, ...]] = []
    for record in answer.records():
        texts = [
            f"{record['tokens']:,}", format_bytes(record["bytes"]),
            short_seconds(record["recompute_s"]), short_rate(record["needed_bytes_per_s"]),
        ]  # fmt: skip
        if answer.load_s is not None:
            texts += [short_seconds(record["load_s"]), short_seconds(record["both_ends_s"])]
        rows.append(tuple(texts))
        values.append(tuple(float(value) for value in record.values()))
    return Table("Needed bandwidth by prefix length", tuple(heads), rows, values)


def _per_load(answer: Workload) -> Table:
    loads = answer.loads
    lines = [
        ("tokens", loads.tokens, short_tokens),
        ("recompute", loads.recompute_s, short_seconds),
        ("bandwidth needed", answer.needed_bytes_per_s, short_rate),
    ]
    if isinstance(answer, Timed):
        name = "measured" if answer.measured else "given"
        lines += [
            ("load", answer.load_s, short_seconds),
            (f"bandwidth {name}", loads.moved_bytes / answer.load_s, short_rate),
        ]
        if answer.response_s is not None:
            lines.append(("load with lateness", answer.response_s, short_seconds))
    title = f"{len(loads):,} loads from {answer.tier.label}"
    return _percentiles(title, "per request", lines)


def _first_token(answer: Timed) -> Table:
    lines = [(WAYS[way], times, short_seconds) for way, times in answer.ttft_s.items()]
    return _percentiles("Time to first token of requests that load", "way", lines)


def _percentiles(title: str, head: str, lines: list[Any]) -> Table:
    rows, values = [], []
    for name, figures, shown in lines:
        bounds = list(quantiles(figures).values())
        rows.append((name, *map(shown, bounds)))
        values.append((None, *bounds))
    return Table(title, (head, *PERCENTILE_HEADS), rows, values)


def facts(answer: Answer) -> Iterator[tuple[str, str]]:
    """Yield (name, figure) of what all loads come to."""
    if isinstance(answer, Curve):
        return
    if isinstance(answer, Timed):
        yield "loads faster than recompute", f"{answer.faster.mean():.1%}"
        yield "GPU-seconds saved", short(answer.saved_gpu_s)
        yield "GPU-seconds wasted", short(answer.wasted_gpu_s)
        late = answer.document()["with_lateness"]
        if late is not None:
            text = (f"{late['faster_ratio']:.1%} faster, {short(late['gpu_s_saved'])} GPU-s saved, "
                    f"{short(late['gpu_s_wasted'])} wasted")  # fmt: skip
            yield "with lateness", text
        shortest = answer.shortest_tokens
        worth = "none of these" if shortest is None else f"{shortest:,.0f} tokens"
        yield "shortest prefix worth loading", worth
        if answer.failed:
            yield "left out, a read failed", f"{answer.failed:,} requests"
    yield "GPU-seconds to recompute all", short(answer.recomputed_gpu_s)
    yield "the answer flips at", short_rate(answer.flip_bytes_per_s)


def assumptions(answer: Answer) -> Iterator[tuple[str, str, str]]:
    """Yield (name, value, origin) of what the answer rests on."""
    for assumption in answer.assumptions:
        yield assumption.name, assumption.value, assumption.origin
