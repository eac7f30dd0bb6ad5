"""The basis of an answer: how long recomputing takes, with each assumption to be printed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from kvtrace.breakeven import gpus
from kvtrace.breakeven.gpus import Precision
from kvtrace.breakeven.recompute import ByMooncake, ByParameters, ByRate, ByTable
from kvtrace.breakeven.table import read_table
from kvtrace.errors import UsageError
from kvtrace.units import S_NS, format_duration_ns

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from kvtrace.breakeven.recompute import Recompute, Values
    from kvtrace.models import Model

DEFAULT_MFU = 0.5
MAX_GPUS = 1 << 14


class Formula(StrEnum):
    """How a prefill's FLOPs are counted."""

    PARAMETERS = "parameters"
    MOONCAKE = "mooncake"


@dataclass(frozen=True, slots=True)
class Assumption:
    """A figure that the answer rests on, and where it is from: `given`, `default`, a source."""

    name: str
    value: str
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the user gave about the GPUs; None for what wasn't.

    `flops_per_s`: of one GPU. `prefill_rate_per_s`: tokens that all GPUs of a request compute.
    `prefill_table`: a file, or pairs of (tokens, seconds), or (tokens, seconds, HBM seconds).
    """

    gpu: str | None = None
    gpus: int | None = None
    precision: Precision | None = None
    flops_per_s: float | None = None
    mfu: float | None = None
    formula: Formula | None = None
    prefill_rate_per_s: float | None = None
    prefill_table: Path | Iterable[tuple[float, ...]] | None = None
    hbm_floor_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Basis:
    """How long recomputing takes on `gpus` GPUs together, and what that rests on."""

    recompute: Recompute
    gpus: int
    label: str
    assumptions: tuple[Assumption, ...]

    def seconds(self, tokens: Values) -> Values:
        """Return the seconds that prompts of `tokens` take."""
        return self.recompute.seconds(np.asarray(tokens, np.float64))


def basis(settings: Settings, model: Model, *, ranks: int | None = None) -> Basis:
    """Return how long recomputing takes. `ranks`: GPUs that share a request, where a trace says so.

    Raises UsageError for values that aren't accepted or don't go together, and where nothing says
    how fast the GPUs are.
    """
    count, counted = _gpus(settings, ranks)
    if settings.prefill_rate_per_s is not None or settings.prefill_table is not None:
        return _measured(settings, count, counted)
    return _calculated(settings, model, count, counted)


def _gpus(settings: Settings, ranks: int | None) -> tuple[int, Assumption]:
    if settings.gpus is None:
        origin = "default" if ranks is None else "the trace's tensor parallelism"
        return ranks or 1, Assumption("GPUs of a request", f"{ranks or 1}", origin)
    if not 1 <= settings.gpus <= MAX_GPUS:
        raise UsageError(
            "out of range", where="--gpus", got=settings.gpus, accepted=f"1 to {MAX_GPUS:,}"
        )
    return settings.gpus, Assumption("GPUs of a request", f"{settings.gpus}", "given")


def _measured(settings: Settings, count: int, counted: Assumption) -> Basis:
    """Return the basis of a measured rate or table, to which no peak or formula belongs."""
    given: dict[str, object] = {
        "--flops": settings.flops_per_s, "--mfu": settings.mfu, "--formula": settings.formula,
        "--precision": settings.precision,
    }  # fmt: skip
    by_rate = settings.prefill_rate_per_s is not None
    if by_rate and settings.prefill_table is not None:
        given = {"--prefill-table": settings.prefill_table} | given
    option = "--prefill-rate" if by_rate else "--prefill-table"
    for name, value in given.items():
        if value is not None:
            raise UsageError(f"does not go together with {option}", where=name, hint="give one")
    floor_s = (settings.hbm_floor_ns or 0) / S_NS
    if not by_rate:
        assert settings.prefill_table is not None
        return _tabled(settings, floor_s, count, counted)
    rate = settings.prefill_rate_per_s
    assert rate is not None
    if not 0 < rate < math.inf:
        raise UsageError("not a rate", where=option, got=rate, accepted="tokens/s above 0")
    assumptions = (*_named(settings), counted, Assumption("prefill", f"{rate:,.0f} tokens/s",
                   "given"), _floor(settings))  # fmt: skip
    label = f"{rate:,.0f} tokens/s of prefill"
    return Basis(ByRate(rate, floor_s), count, label, assumptions)


def _tabled(settings: Settings, floor_s: float, count: int, counted: Assumption) -> Basis:
    table = read_table(settings.prefill_table)
    has_floor = table.hbm_s is not None
    if has_floor and settings.hbm_floor_ns is not None:
        raise UsageError(
            "the table has the floor of each length", where="--hbm-floor", hint="give one"
        )
    times = table.net_s(floor_s)
    floor = _floor(settings)
    if has_floor:
        floor = Assumption("HBM floor", "subtracted length by length", "the table")
    tabled = Assumption("prefill", f"{len(table.tokens)} measured lengths", str(table.origin))
    label = f"measured prefill of {len(table.tokens)} lengths"
    assumptions = (*_named(settings), counted, tabled, floor)
    return Basis(ByTable(table.tokens, times), count, label, assumptions)


def _named(settings: Settings) -> tuple[Assumption, ...]:
    """Return the GPU's name, which a measured rate doesn't depend on."""
    if settings.gpu is None:
        return ()
    return (Assumption("GPU", gpus.gpu(settings.gpu).name, "given"),)


def _floor(settings: Settings) -> Assumption:
    if settings.hbm_floor_ns is None:
        return Assumption("HBM floor", "0 s", "default: a hit in HBM is taken to cost nothing")
    return Assumption("HBM floor", format_duration_ns(settings.hbm_floor_ns), "given")


def _calculated(settings: Settings, model: Model, count: int, counted: Assumption) -> Basis:
    """Return the basis of a peak, its share that is reached, and a formula of FLOPs."""
    if settings.hbm_floor_ns is not None:
        raise UsageError(
            "belongs to measured prefill", where="--hbm-floor",
            accepted="with --prefill-rate or --prefill-table", hint="formulas count no floor",
        )  # fmt: skip
    mfu = DEFAULT_MFU if settings.mfu is None else settings.mfu
    if not 0 < mfu <= 1:
        raise UsageError("out of range", where="--mfu", got=mfu, accepted="above 0, up to 1")
    label, peak, peaks = _peak(settings)
    if model.compute is None:
        raise UsageError(
            f"what {model.name} computes per token isn't known", where="--model",
            accepted="a model whose file has [compute]",
            hint="give --prefill-rate or --prefill-table, or add it (docs/models.md)",
        )  # fmt: skip
    formula = settings.formula or Formula.PARAMETERS
    whole = peak * mfu * count
    recompute: Recompute = ByParameters(model, model.compute, whole)
    text = f"2 · {model.compute.active_parameters / 1e9:,.2f} G parameters · tokens + attention"
    if formula == Formula.MOONCAKE:
        recompute = ByMooncake.of(model, model.compute, whole)
        text = "layers · (4·p²·d + 22·p·d²), Mooncake"
    assumptions = (
        *peaks, counted, Assumption("MFU", f"{mfu:g}", _origin(settings.mfu)),
        Assumption("FLOPs", text, _origin(settings.formula)),
        Assumption("dimensions", model.name, model.compute.source),
    )  # fmt: skip
    return Basis(recompute, count, f"{count} × {label} at MFU {mfu:g}", assumptions)


def _origin(value: object) -> str:
    return "default" if value is None else "given"


def _peak(settings: Settings) -> tuple[str, float, tuple[Assumption, ...]]:
    """Return a GPU's name, its FLOP/s, and where they are from."""
    if settings.flops_per_s is not None:
        for name, value in (("--gpu", settings.gpu), ("--precision", settings.precision)):
            if value is not None:
                raise UsageError("does not go together with --flops", where=name, hint="give one")
        flops = settings.flops_per_s
        if not 1e9 <= flops <= 1e18:
            raise UsageError(
                "out of range", where="--flops", got=f"{flops:g}", accepted="1e9 to 1e18 FLOP/s"
            )
        text = f"{flops / 1e12:g} TFLOP/s"
        return text, flops, (Assumption("peak of a GPU", text, "given"),)
    if settings.gpu is None:
        raise UsageError(
            "how fast recomputing is isn't known", where="breakeven",
            accepted="--gpu NAME, --flops X, --prefill-rate TOKENS/s or --prefill-table FILE",
            hint=f"known GPUs: {', '.join(gpus.gpus())}",
        )  # fmt: skip
    chosen = gpus.gpu(settings.gpu)
    precision = settings.precision or Precision.BF16
    flops = chosen.flops_per_s(precision)
    text = f"{flops / 1e12:g} TFLOP/s dense {precision.value}"
    return chosen.name, flops, (
        Assumption("precision", precision.value, _origin(settings.precision)),
        Assumption(f"peak of {chosen.name}", text, f"{chosen.source}; as of {gpus.DATE}"),
    )  # fmt: skip
