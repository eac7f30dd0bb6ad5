"""The break-even as a function: of a model, of a trace's workload, or of a replay's result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvtrace import arguments
from kvtrace.breakeven.answer import Timed, Workload, finite
from kvtrace.breakeven.curve import Curve, curve
from kvtrace.breakeven.gpus import Precision
from kvtrace.breakeven.requests import loads_of, pick_tier, read_accesses, token_assumption
from kvtrace.breakeven.settings import Assumption, Formula, Settings, basis
from kvtrace.breakeven.times import is_measured, read_times
from kvtrace.errors import TraceError, UsageError, unknown_name
from kvtrace.models import Model, load_model, model_names
from kvtrace.trace.reader import Trace, open_trace
from kvtrace.units import parse_bytes, parse_duration_ns, parse_rate_per_s

if TYPE_CHECKING:
    import os
    from pathlib import Path

    import numpy as np
    import polars as pl

    from kvtrace.breakeven.requests import Loads
    from kvtrace.breakeven.times import Times
    from kvtrace.trace.header import Header

    Answer = Curve | Workload | Timed


@dataclass(frozen=True, slots=True, repr=False)
class BreakEven:
    """An answer: a curve, a workload's needs, or loads against recomputing, request by request.

    `times`: of a replay's result, what was measured of the tier.
    """

    answer: Answer
    header: Header | None = None
    times: Times | None = None

    def __repr__(self) -> str:
        return f"<BreakEven: {self.answer.sentence()}>"

    def sentence(self) -> str:
        """Return the answer in a sentence."""
        return self.answer.sentence()

    def table(self) -> pl.DataFrame:
        """Return a row per prefix length of a curve, else per request that loads."""
        import polars as pl  # the command line doesn't need it

        return pl.DataFrame(self.records())

    def records(self) -> list[dict[str, Any]]:
        """Return the rows of `table`."""
        if isinstance(self.answer, Curve):
            return self.answer.records()
        columns = {name: values.tolist() for name, values in self.answer.columns().items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def document(self) -> dict[str, Any]:
        """Return all of it as `kvtrace breakeven --json` prints it; what is infinite is None."""
        document: dict[str, Any] = finite(self.answer.document())
        return document


def breakeven(
    trace: Trace | str | os.PathLike[str] | None = None,
    *,
    model: Model | str | os.PathLike[str] | None = None,
    gpu: str | None = None,
    gpus: int | None = None,
    precision: str | None = None,
    flops: float | str | None = None,
    mfu: float | None = None,
    formula: str | None = None,
    prefill_rate: float | str | None = None,
    prefill_table: Any = None,
    hbm_floor: str | int | None = None,
    dtype: str | None = None,
    tier: str | None = None,
    drive_bandwidth: str | int | None = None,
    whole_trace: str | os.PathLike[str] | None = None,
) -> BreakEven:
    """Compare loading KV state with recomputing it, and return the answer.

    Without `trace`, a curve of `model`. With a trace, what its loads need; with a replay's result,
    what they took. `whole_trace`: the trace that was replayed, which knows where in a prompt the
    loads stand, and what no tier had. `prefill_table`: a path, or rows of (tokens, seconds) or
    (tokens, seconds, HBM seconds). `hbm_floor`: text with a unit, or ns. `drive_bandwidth`: text
    such as `6GB/s`, or bytes per second. The others are options of `kvtrace breakeven`.

    Raises UsageError for an argument that isn't accepted, TraceError for a bad file.
    """
    settings = Settings(
        gpu=gpu if gpu is None else arguments.text(gpu, "gpu"),
        gpus=gpus if gpus is None else arguments.count(gpus, "gpus", least=-(1 << 62)),
        precision=_word(Precision, precision, "--precision"),
        flops_per_s=None if flops is None else flops_per_s(flops),
        mfu=None if mfu is None else number(mfu, "mfu"),
        formula=_word(Formula, formula, "--formula"),
        prefill_rate_per_s=None if prefill_rate is None else _tokens_per_s(prefill_rate),
        prefill_table=_table(prefill_table),
        hbm_floor_ns=None if hbm_floor is None else _duration(hbm_floor),
    )
    drive = None if drive_bandwidth is None else bandwidth(drive_bandwidth)
    whole = None if whole_trace is None else arguments.path(whole_trace, "whole_trace")
    for name, text in (("dtype", dtype), ("tier", tier)):
        if text is not None:
            arguments.text(text, name)
    if trace is None:
        for name, value in (("--tier", tier), ("--trace", whole)):
            if value is not None:
                raise UsageError("belongs to a trace or a result", where=name)
        return BreakEven(_curve(settings, model, dtype, drive))
    if isinstance(trace, Trace):
        return _of_trace(trace, settings, model, dtype, tier, drive, whole)
    with open_trace(arguments.path(trace, "trace")) as opened:
        return _of_trace(opened, settings, model, dtype, tier, drive, whole)


def _curve(settings: Settings, model: Any, dtype: str | None, drive: float | None) -> Curve:
    if model is None:
        raise UsageError(
            "nothing to compare", where="breakeven",
            accepted="--model NAME for a curve, or a trace or a replay's result",
        )  # fmt: skip
    loaded = model if isinstance(model, Model) else load_model(model)
    cache = _cache(loaded, dtype)
    return curve(loaded, basis(settings, loaded), cache, dtype=dtype, drive_bytes_per_s=drive)


def _cache(model: Model, dtype: str | None) -> Assumption:
    per_token = float(model.rank_bytes_per_token(1, dtype))
    origin = f"{model.source}" if dtype is None else "given"
    text = f"{dtype or model.dtype}, {per_token:,.0f} B per token, each rank's part once"
    return Assumption(f"KV cache of {model.name}", text, origin)


def _of_trace(
    trace: Trace,
    settings: Settings,
    model: Any,
    dtype: str | None,
    tier: str | None,
    drive: float | None,
    whole: Path | None,
) -> BreakEven:
    header = trace.header
    if dtype is not None:
        raise UsageError("a trace has its bytes", where="--dtype", hint="it is for a curve")
    measured = is_measured(trace)
    if measured and drive is not None:
        raise UsageError(
            "was measured", where="--drive-bandwidth", hint="give the trace, not the result"
        )
    if whole is not None and not measured:
        raise UsageError(
            "belongs to a replay's result", where="--trace", got=whole,
            hint="the first argument is the trace already",
        )  # fmt: skip
    if whole is not None and whole.exists() and whole.samefile(trace.path):
        raise UsageError(
            "is the result itself", where="--trace", got=whole,
            accepted="the trace that was replayed, or nothing",
        )  # fmt: skip
    chosen, named = _model_of(header, model)
    ground = basis(settings, chosen, ranks=header.tensor_parallel)
    ranks = header.tensor_parallel or 1
    held = chosen.token(ranks, (header.model or {}).get("dtype") or None)
    token_bytes = float(held.own * ranks + held.shared)
    source, place = _places(trace, whole, measured)
    accesses = read_accesses(trace, token_bytes) if whole is None else _read(whole, token_bytes)
    picked = pick_tier(accesses, tier, trace.path if whole is None else whole)
    loads = loads_of(accesses, picked, ground)
    assumptions = (
        Assumption("tier", picked.label, "given" if tier else "default: the slowest with hits"),
        named, *ground.assumptions, token_assumption(header, token_bytes), place, *_ranks(header),
    )  # fmt: skip
    facts = (chosen.name, picked, loads, ground, assumptions)
    if measured:
        times = read_times(trace, picked)
        return BreakEven(_timed(facts, times, source), header, times)
    if drive is None:
        return BreakEven(Workload(*facts), header)
    at = Assumption("bandwidth of a load", f"{drive / 1e9:g} GB/s", "given")
    facts = (*facts[:4], (*assumptions, at))
    load_s = loads.moved_bytes / drive
    return BreakEven(Timed(*facts, load_s, None, None, 0, False, drive), header)


def _read(path: Path, token_bytes: float) -> Any:
    with open_trace(path) as trace:
        return read_accesses(trace, token_bytes)


def _places(trace: Trace, whole: Path | None, measured: bool) -> tuple[object, Assumption]:
    """Return where positions are from, and what that rests on."""
    name = "place of a load"
    if not measured:
        return trace.path, Assumption(name, "behind the hits before it", "the trace")
    if whole is not None:
        return whole, Assumption(name, "behind the hits before it", str(whole))
    text = "the prompt's start; what no tier had isn't counted"
    origin = "default: a result has only what was replayed; --trace has all"
    return trace.path, Assumption(name, text, origin)


def _ranks(header: Header) -> tuple[Assumption, ...]:
    if header.ranks != "one" or (header.tensor_parallel or 1) == 1:
        return ()
    text = "as many drives as ranks, each with the rows' loads"
    return (Assumption("ranks", text, f"the trace shows 1 of {header.tensor_parallel}"),)


def _timed(facts: Any, times: Times, source: object) -> Timed:
    """Return the loads of requests that were measured, with their times in the same order."""
    import numpy as np

    model, tier, loads, ground, assumptions = facts
    order = np.argsort(times.request, kind="stable")
    known = times.request[order]
    at = np.searchsorted(known, loads.request).clip(max=max(0, len(known) - 1))
    both = known[at] == loads.request if len(known) else np.zeros(len(loads), np.bool_)
    kept = loads.kept(both)
    row = order[at[both]]
    if not len(kept):
        raise TraceError("none of its requests was measured", where=source)
    _same_bytes(kept, times, row, source)
    left = len(known) - len(row)
    if left:
        text = f"{left:,} requests of the result"
        assumptions = (*assumptions, Assumption("left out", text, "not in the trace"))
    response = None if times.response_s is None else times.response_s[row]
    return Timed(
        model, tier, kept, ground, assumptions, times.load_s[row], response, times.window_s,
        times.failed, True, None,
    )  # fmt: skip


def _same_bytes(loads: Loads, times: Times, row: np.ndarray[Any, Any], where: object) -> None:
    """Refuse a trace whose requests load other bytes than those that were measured."""
    other = loads.moved_bytes != times.moved_bytes[row]
    if other.any():
        first = int(other.argmax())
        raise TraceError(
            "is not the trace that was replayed", where=where,
            got=f"request {int(loads.request[first])} loads {int(loads.moved_bytes[first]):,} B",
            accepted=f"{int(times.moved_bytes[row[first]]):,} B, as in the result",
        )  # fmt: skip


def _model_of(header: Header, given: Any) -> tuple[Model, Assumption]:
    """Return the model that was given, or the one that a trace's header names."""
    if given is not None:
        loaded = given if isinstance(given, Model) else load_model(given)
        return loaded, Assumption("model", loaded.name, "given")
    name = str((header.model or {}).get("name") or "")
    if name not in model_names():
        raise UsageError(
            "the trace's model isn't known" if name else "the trace names no model",
            where="--model", got=repr(name) if name else None,
            accepted="a name of `kvtrace list models`, a TOML file or a config.json",
        )  # fmt: skip
    return load_model(name), Assumption("model", name, "the trace")


def _word(kind: Any, given: Any, where: str) -> Any:
    if given is None:
        return None
    arguments.text(given, where)
    if given not in list(kind):
        raise unknown_name(where.removeprefix("--"), given, map(str, kind), where=where)
    return kind(given)


def number(given: Any, name: str) -> float:
    """Return a finite number. Raises UsageError for anything else."""
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise arguments.wrong(name, given, "a number")
    return float(given)


def flops_per_s(given: Any) -> float:
    """Return FLOP/s: a number, or text such as ``312e12`` or ``312T``. Raises UsageError."""
    text = str(given).strip()
    scale = {"G": 1e9, "T": 1e12, "P": 1e15}.get(text[-1:], 1.0)
    try:
        value = float(text[:-1] if scale != 1.0 else text) * scale
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or isinstance(given, bool):
        raise UsageError(
            "not a number", where="--flops", got=repr(given), accepted="e.g. 989e12, 989T"
        )
    return value


def _tokens_per_s(given: Any) -> float:
    if isinstance(given, str):
        try:
            return parse_rate_per_s(given)
        except UsageError as error:
            raise UsageError(
                error.problem, where="--prefill-rate", got=error.got,
                accepted="tokens/s above 0, e.g. 40000/s",
            ) from error  # fmt: skip
    return number(given, "prefill_rate")


def _duration(given: Any) -> int:
    if not isinstance(given, str):
        return arguments.count(given, "hbm_floor", least=0)
    try:
        return parse_duration_ns(given)
    except UsageError as error:
        raise UsageError(
            error.problem, where="--hbm-floor", got=error.got, accepted=error.accepted
        ) from error


def bandwidth(given: Any) -> float:
    """Return bytes per second: a number, or text such as ``6GB/s``. Raises UsageError."""
    if isinstance(given, str):
        size, _, per = given.partition("/")
        if size.endswith("b"):
            raise _no_bandwidth(given, hint="a small b is a bit: 8 Gb/s are 1 GB/s")
        try:
            value = parse_bytes(size)
        except UsageError as error:
            raise _no_bandwidth(given) from error
        if per not in ("", "s") or not 0 < value <= 1 << 62:
            raise _no_bandwidth(given)
        return float(value)
    value_per_s = number(given, "drive_bandwidth")
    if not 0 < value_per_s <= 1 << 62:
        raise arguments.wrong("drive_bandwidth", given, "bytes per second above 0")
    return value_per_s


def _no_bandwidth(given: str, hint: str | None = None) -> UsageError:
    return UsageError(
        "not a bandwidth", where="--drive-bandwidth", got=repr(given),
        accepted="e.g. 6GB/s, 6.3GB/s, 800MiB/s", hint=hint,
    )  # fmt: skip


def _table(given: Any) -> Any:
    if given is None or (isinstance(given, list | tuple) and given):
        return given
    return arguments.path(given, "prefill_table")
