"""Whether a tier pays: each request's load against recomputing, and what all of them come to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.breakeven.curve import assumed
from kvtrace.breakeven.recompute import needed_bytes_per_s
from kvtrace.show.numbers import short, short_rate, short_seconds, short_tokens

if TYPE_CHECKING:
    from kvtrace.breakeven.recompute import Values
    from kvtrace.breakeven.requests import Loads
    from kvtrace.breakeven.settings import Assumption, Basis
    from kvtrace.trace.schema import Tier

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Workload:
    """Loads of a tier's requests, whatever loads them: the bandwidth that each needs."""

    model: str
    tier: Tier
    loads: Loads
    basis: Basis
    assumptions: tuple[Assumption, ...]

    @cached_property
    def needed_bytes_per_s(self) -> Values:
        """Per request: the bandwidth above which its load is faster than recomputing."""
        return needed_bytes_per_s(self.loads.moved_bytes.astype(np.float64), self.loads.recompute_s)

    @property
    def recomputed_gpu_s(self) -> float:
        """GPU-seconds of computing all that is loaded."""
        return float(self.loads.recompute_s.sum()) * self.basis.gpus

    @property
    def flip_bytes_per_s(self) -> float:
        """The bandwidth of all loads at which saved and wasted GPU-seconds are equal."""
        total = self.loads.recompute_s.sum()
        return float(self.loads.moved_bytes.sum() / total) if total > 0 else float("inf")

    def sentence(self) -> str:
        """Return the answer in a sentence."""
        needed = quantiles(self.needed_bytes_per_s)
        tokens = np.median(self.loads.tokens)
        if math.isinf(self.flip_bytes_per_s):
            return (
                f"Loads from {self.tier.label} beat recompute at no bandwidth, for recomputing "
                f"takes no time ({self.basis.label})."
            )
        return (
            f"Loads from {self.tier.label} beat recompute above "
            f"{short_rate(self.flip_bytes_per_s)} in all (P50 {short_rate(needed['p50'])} at "
            f"{short_tokens(tokens)} tokens, P99 {short_rate(needed['p99'])}; {self.basis.label})."
        )

    def document(self) -> dict[str, Any]:
        """Return the figures as JSON has them."""
        return {
            "kind": "workload",
            "sentence": self.sentence(),
            "model": self.model,
            "tier": self.tier.label,
            "gpus": self.basis.gpus,
            "requests": len(self.loads),
            "bytes": int(self.loads.moved_bytes.sum()),
            "tokens": quantiles(self.loads.tokens),
            "needed_bytes_per_s": quantiles(self.needed_bytes_per_s),
            "flip_bytes_per_s": self.flip_bytes_per_s,
            "recomputed_gpu_s": self.recomputed_gpu_s,
            "assumptions": assumed(self.assumptions),
        }

    def columns(self) -> dict[str, Any]:
        """Return a column per figure of a request."""
        loads = self.loads
        return {
            "request": loads.request, "tokens": loads.tokens, "bytes": loads.moved_bytes,
            "recompute_s": loads.recompute_s, "missed_s": loads.missed_s,
            "needed_bytes_per_s": self.needed_bytes_per_s,
        }  # fmt: skip


@dataclass(frozen=True)
class Timed(Workload):
    """Loads with the time that each took, measured or at a given bandwidth.

    `response_s`: from when a load was due, where that is known. `window_s`: of the run, for
    sentences. `failed`: requests with a failed read, which are in no figure.
    """

    load_s: Values
    response_s: Values | None
    window_s: float | None
    failed: int
    measured: bool
    drive_bytes_per_s: float | None

    @property
    def faster(self) -> Any:
        """Per request: whether its load took less time than recomputing."""
        return self.load_s < self.loads.recompute_s

    @property
    def saved_gpu_s(self) -> float:
        """GPU-seconds by which loads were faster, a request holding its GPUs while it loads."""
        return _gained(self.loads.recompute_s, self.load_s) * self.basis.gpus

    @property
    def wasted_gpu_s(self) -> float:
        """GPU-seconds by which loads were slower."""
        return _gained(self.load_s, self.loads.recompute_s) * self.basis.gpus

    @property
    def pays(self) -> bool:
        """Whether more is saved than wasted."""
        return self.saved_gpu_s > self.wasted_gpu_s

    @cached_property
    def both_s(self) -> Values:
        """Per request: when computing its head meets loading its tail, by whole blocks.

        Source: Cake, arXiv 2410.03065 (2024-10).
        """
        loads = self.loads
        starts = np.cumsum(loads.counts) - loads.counts
        computed_s = _within(loads.block_s, starts, loads.counts)
        moved = _within(loads.block_bytes.astype(np.float64), starts, loads.counts)
        left = 1 - moved / np.repeat(loads.moved_bytes, loads.counts)
        loading_s = np.repeat(self.load_s, loads.counts) * np.maximum(0.0, left)
        meet_s = np.minimum.reduceat(np.maximum(computed_s, loading_s), starts)
        return np.minimum(meet_s, self.load_s)

    @property
    def ttft_s(self) -> dict[str, Values]:
        """Per request: time to the first token by four ways, what no tier had computed after it."""
        missed, recompute = self.loads.missed_s, self.loads.recompute_s
        return {
            "recompute": recompute + missed,
            "load": self.load_s + missed,
            "best": np.minimum(self.load_s, recompute) + missed,
            "both_ends": self.both_s + missed,
        }

    @property
    def shortest_tokens(self) -> float | None:
        """The shortest load worth making: to make those from it on saves most; None: none does."""
        order = np.argsort(-self.loads.tokens, kind="stable")
        tokens = self.loads.tokens[order]
        gained = np.cumsum((self.loads.recompute_s - self.load_s)[order])
        last = np.append(tokens[1:] != tokens[:-1], True)
        gained, tokens = gained[last], tokens[last]
        best = len(gained) - 1 - int(gained[::-1].argmax())
        return float(tokens[best]) if gained[best] > 0 else None

    def sentence(self) -> str:
        """Return the answer in a sentence."""
        needed, tokens = np.median(self.needed_bytes_per_s), np.median(self.loads.tokens)
        within = "" if self.window_s is None else f" in {short_seconds(self.window_s)}"
        reached = float(np.median(self.loads.moved_bytes / self.load_s))
        how = "measured" if self.measured else "given"
        text = (
            f"The {self.tier.label} tier {'pays' if self.pays else 'does not pay'}: "
            f"{self.faster.mean():.0%} of loads beat recompute, {short(self.saved_gpu_s)} GPU-s "
            f"saved and {short(self.wasted_gpu_s)} wasted{within} (needs {short_rate(needed)} at "
            f"P50 of {short_tokens(tokens)} tokens; {how} {short_rate(reached)})."
        )
        if self.pays != (self.faster.mean() > 0.5):
            few = (
                ("fast", "save", "slow", "lose") if self.pays else ("slow", "lose", "fast", "save")
            )
            text += " The {} loads {} more than the {} ones {}.".format(*few)
        if self.response_s is None:
            return text
        late = _gained(self.loads.recompute_s, self.response_s) > _gained(
            self.response_s, self.loads.recompute_s
        )
        if late == self.pays:
            return text
        return f"{text} Counted from when reads were due, it {'does' if late else 'does not'}."

    def document(self) -> dict[str, Any]:
        """Return the figures as JSON has them."""
        recompute, response = self.loads.recompute_s, self.response_s
        rate = self.loads.moved_bytes / self.load_s
        late = None if response is None else {
            "faster_ratio": float((response < recompute).mean()),
            "gpu_s_saved": _gained(recompute, response) * self.basis.gpus,
            "gpu_s_wasted": _gained(response, recompute) * self.basis.gpus,
            "load_s": quantiles(response),
        }  # fmt: skip
        return super().document() | {
            "kind": "measured" if self.measured else "workload",
            "pays": self.pays,
            "faster_ratio": float(self.faster.mean()),
            "gpu_s_saved": self.saved_gpu_s,
            "gpu_s_wasted": self.wasted_gpu_s,
            "load_s": quantiles(self.load_s),
            "with_lateness": late,
            "ttft_s": {way: quantiles(times) for way, times in self.ttft_s.items()},
            "shortest_tokens": self.shortest_tokens,
            "loaded_bytes_per_s": quantiles(rate),
            "loaded_bytes_per_s_in_all": float(self.loads.moved_bytes.sum() / self.load_s.sum()),
            "drive_bytes_per_s": self.drive_bytes_per_s,
            "window_s": self.window_s,
            "failed_requests": self.failed,
        }

    def columns(self) -> dict[str, Any]:
        """Return a column per figure of a request."""
        more = {"load_s": self.load_s, "both_ends_s": self.both_s, "faster": self.faster}
        late = {} if self.response_s is None else {"response_s": self.response_s}
        return super().columns() | more | late


def quantiles(values: Any) -> dict[str, float]:
    """Return P50, P95 and P99, between two values by the line through them."""
    with np.errstate(invalid="ignore"):  # between two that are infinite
        bounds = np.quantile(values, [percent / 100 for percent in PERCENTILES])
    bounds = np.where(np.isnan(bounds), np.inf, bounds)
    return {f"p{n}": float(value) for n, value in zip(PERCENTILES, bounds, strict=True)}


def _gained(slower: Values, faster: Values) -> float:
    return float(np.maximum(0.0, slower - faster).sum())


def _within(values: Values, starts: Any, counts: Any) -> Values:
    """Return sums up to and with each value, within its request."""
    total: Values = np.cumsum(values)
    within: Values = total - np.repeat(total[starts] - values[starts], counts)
    return within


def finite(value: Any) -> Any:
    """Return a document in which numbers that JSON doesn't have are None."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
