"""The what-if as a function: capacities and policies tried on the same requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvtrace import arguments
from kvtrace.errors import UsageError
from kvtrace.recording.config import RecordConfig, changed_config
from kvtrace.trace.reader import Trace, open_trace
from kvtrace.whatif.accesses import Traced
from kvtrace.whatif.answers import Answers, answer
from kvtrace.whatif.workload import Configured
from kvtrace.whatif.worth import asked

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    import polars as pl

    from kvtrace.whatif.workload import Workload


@dataclass(frozen=True, slots=True, repr=False)
class WhatIf:
    """What each combination comes to, in order; the last key of `choices` changes fastest."""

    answers: Answers

    def __repr__(self) -> str:
        outcomes = self.answers.outcomes
        best = max(outcome.total_hit_ratio for outcome in outcomes)
        return f"<WhatIf {len(outcomes):,} combinations: hit ratio up to {best:.3f}>"

    def __len__(self) -> int:
        return len(self.answers.outcomes)

    def table(self) -> pl.DataFrame:
        """Return one row per combination: its options, hit ratios, bytes of the node, wear."""
        import polars as pl  # the command line doesn't need it

        rows = [outcome.record() for outcome in self.answers.outcomes]
        return pl.DataFrame(rows, infer_schema_length=None)  # a row without loads has fewer cells

    def curves(self) -> pl.DataFrame:
        """Return one row per policy and size of one tier: blocks, bytes, miss ratio."""
        import polars as pl

        rows = [
            (each.policy, blocks, round(blocks * self.answers.block_bytes), ratio)
            for each in self.answers.curves
            for blocks, ratio in zip(each.blocks, each.miss_ratio, strict=True)
        ]
        kinds = {"policy": pl.String, "blocks": pl.Int64, "bytes": pl.Int64}
        return pl.DataFrame(rows, {**kinds, "miss_ratio": pl.Float64}, orient="row")

    def document(self) -> dict[str, Any]:
        """Return all of it as `kvtrace whatif --json` prints it."""
        return self.answers.document()


def whatif(
    requests: Trace | RecordConfig | str | os.PathLike[str],
    choices: Mapping[str, Any] | None = None,
    *,
    curves: bool | Iterable[str] = False,
    gpu: str | None = None,
    gpus: int | None = None,
    flops: float | str | None = None,
    mfu: float | None = None,
    drive_bandwidth: str | float | None = None,
) -> WhatIf:
    """Simulate every combination of `choices`, without any I/O, and return the answers.

    `requests`: a trace, or the configuration of a recording (`kvtrace.load_config`). `choices`:
    values, or lists of them, by key of a configuration: `tiers.cpu.capacity`, `eviction`,
    `write_policy`, ...; None tries what is configured. `curves`: miss ratios of one tier at all
    sizes too: True for LRU and the optimum, or names of further policies (libCacheSim). `gpu` or
    `flops`: the bandwidth that each combination's loads need, and with `drive_bandwidth` the
    GPU-seconds that they save and waste, as `kvtrace.breakeven` has these arguments.

    Raises UsageError for a key or value that isn't accepted, TraceError for a bad trace.
    """
    tried = {
        key: _values(value, key)
        for key, value in arguments.options(choices or {}, "choices").items()
    }
    wanted = _policies(curves)
    question = asked(gpu=gpu, gpus=gpus, flops=flops, mfu=mfu, drive_bandwidth=drive_bandwidth)
    if isinstance(requests, RecordConfig):
        config = requests
        workload: Workload = Configured(lambda options: changed_config(config, options))
        return WhatIf(answer(workload, tried, curves=wanted, question=question))
    if isinstance(requests, Trace):
        return WhatIf(answer(Traced(requests), tried, curves=wanted, question=question))
    with open_trace(arguments.path(requests, "requests")) as trace:
        return WhatIf(answer(Traced(trace), tried, curves=wanted, question=question))


def _values(given: Any, key: str) -> list[Any]:
    values = list(given) if isinstance(given, list | tuple | range) else [given]
    if not values:
        raise UsageError("no value to try", where=f"choices: {key}", accepted="at least one")
    return values


def _policies(curves: bool | Iterable[str]) -> list[str] | None:
    if isinstance(curves, bool):
        return [] if curves else None
    return arguments.texts(curves, "curves")
