"""A finished run in Python: its figures, its verdict, and its ops as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvtrace.errors import UsageError
from kvtrace.trace.schema import Op, Phase, Tier
from replay.ops.columns import NO_TIME_NS

if TYPE_CHECKING:
    import polars as pl

    from replay.host.environment import Environment
    from replay.measure.fidelity import FidelityDocument
    from replay.measure.figures import GroupDocument, LaneDocument
    from replay.measure.requests.figures import RequestsDocument
    from replay.ops.done import Done
    from replay.options import ReplayOptions
    from replay.result.document import PayloadInfo, Populated, ResultDocument, ToolDocument
    from replay.result.trace_info import TraceInfo
    from replay.result.verdict import Verdict


@dataclass(frozen=True, slots=True, repr=False)
class Result:
    """A finished run: its verdict, its figures, and, unless it was too long, its ops."""

    verdict: Verdict
    figures: ResultDocument
    start_ns: int
    """Clock zero of the run."""
    kept: Done | None
    """All ops, of a run that isn't too long for that."""

    def __repr__(self) -> str:
        return f"<Result {self.verdict.word}: {self.ops:,} ops>"

    def document(self) -> ResultDocument:
        """Return the document that every report renders."""
        return self.figures

    @property
    def lanes(self) -> list[LaneDocument]:
        """The executed tiers, at least one."""
        return self.figures.lanes

    @property
    def headline(self) -> LaneDocument:
        """The lane that the percentiles at the top are of."""
        return self.figures.headline

    @property
    def ops(self) -> int:
        """Ops that completed without error, all lanes."""
        return self.figures.ops

    @property
    def bytes(self) -> int:
        """Bytes read and written, all lanes."""
        return self.figures.bytes

    @property
    def bytes_per_s(self) -> float | None:
        """Bytes completed in the lanes' windows ÷ the longest window."""
        return self.figures.throughput_bytes_per_s

    @property
    def kv_tokens_per_s(self) -> float | None:
        """Throughput of all lanes in tokens of KV; None where the trace names no model."""
        return self.figures.kv_tokens_per_s

    @property
    def errors(self) -> dict[str, int]:
        """Failed ops by error."""
        return self.figures.errors_by_name

    @property
    def groups(self) -> list[GroupDocument]:
        """Ops per tier × phase × op."""
        return self.figures.groups

    @property
    def requests(self) -> RequestsDocument | None:
        """Times of requests; None where the trace names none."""
        return self.figures.requests

    @property
    def fidelity(self) -> FidelityDocument:
        """Fidelity of the run to its trace."""
        return self.figures.fidelity

    @property
    def populated(self) -> Populated:
        """What was written before the clock started."""
        assert self.figures.populate is not None
        return self.figures.populate

    @property
    def payload(self) -> PayloadInfo:
        """What was written, and what of the reads was verified."""
        assert self.figures.payload is not None
        return self.figures.payload

    @property
    def tool(self) -> ToolDocument:
        """What the tool itself took."""
        assert self.figures.tool is not None
        return self.figures.tool

    @property
    def environment(self) -> Environment:
        """The machine that it ran on."""
        assert self.figures.environment is not None
        return self.figures.environment

    @property
    def options(self) -> ReplayOptions:
        """The run's options."""
        assert self.figures.config is not None
        return self.figures.config

    @property
    def trace(self) -> TraceInfo:
        """What was replayed."""
        return self.figures.trace

    def table(self) -> pl.DataFrame:
        """Return one row per executed op: what it was, and its times since the clock's zero, ns.

        `offset`: where on its target it begins; `run`: how many of its bytes lie there in a row.
        Raises UsageError for a run of more than about a million ops: write a result trace instead.
        """
        import polars as pl  # runs of the command line don't need it

        done = self.kept
        if done is None:
            raise UsageError(
                "the run was too long for a table in memory",
                hint="write a result trace (--out) and open that",
            )

        def since_start(name: str) -> pl.Series:
            values = pl.Series(name, getattr(done, f"{name}_ns"))
            return values.set(values == NO_TIME_NS, None) - self.start_ns

        def words(name: str, vocabulary: type[Op | Phase | Tier]) -> pl.Series:
            labels = {int(word): word.label for word in vocabulary}
            values = pl.Series(name, getattr(done, name))
            return values.replace_strict(labels, return_dtype=pl.Enum(list(labels.values())))

        return pl.DataFrame(
            [
                words("op", Op),
                words("tier", Tier),
                words("phase", Phase),
                pl.Series("key", done.key),
                pl.Series("size", done.size_bytes),
                pl.Series("offset", done.offset_bytes),
                pl.Series("run", done.run_bytes),
                *(since_start(name) for name in ("due", "ready", "slot", "submit", "complete")),
                pl.Series("error", done.error),
            ]
        )
