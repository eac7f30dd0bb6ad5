"""Result of a run: every figure of a report, and the columns it was computed from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvtrace.errors import UsageError
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.units import format_count
from replay.ops.columns import NO_TIME_NS
from replay.payload.reduction import Reduction
from replay.result.totals import Totals
from replay.result.trace_info import TraceInfo

if TYPE_CHECKING:
    import polars as pl

    from replay.device.sysfs import DeviceChange, DeviceState, DiskStat
    from replay.host.bpf import BlockLatency
    from replay.host.environment import Environment
    from replay.host.series import DeviceSeries, HostSeries
    from replay.measure.fidelity import Fidelity, Skipped
    from replay.measure.histogram import Summary
    from replay.measure.recorder import Groups, LaneMeasure
    from replay.measure.requests.measure import RequestsMeasure
    from replay.ops.counters import LaneCounters
    from replay.ops.done import Done
    from replay.options import ReplayOptions
    from replay.result.document import ResultDocument
    from replay.result.verdict import Verdict
    from replay.safety.marker import Preconditioned


@dataclass(frozen=True, slots=True)
class LaneResult:
    """One executed tier: what it ran on, what was measured, what the engine counted."""

    measure: LaneMeasure
    target: str
    target_name: str
    counters: LaneCounters
    io: tuple[IoGroup, ...]
    live_bytes_max: int
    live_objects_max: int
    space_needed_bytes: int
    """What the live set takes in all, slack and idle space included."""
    device: DeviceView | None
    state: DeviceState | None
    """Of the device, after the run."""
    change: DeviceChange | None
    preconditioned: Preconditioned | None
    device_series: DeviceSeries | None
    """What the device did, about every second; None where there is none."""


@dataclass(frozen=True, slots=True)
class IoGroup:
    """Latencies of single I/Os of at least `size_class` bytes, and less than twice as many."""

    size_class: int
    latency: Summary


@dataclass(frozen=True, slots=True)
class DeviceView:
    """The block device's own counters, over the run. `asked_bytes`: what the lane moved."""

    stat: DiskStat
    asked_bytes: int

    @property
    def bytes(self) -> int:
        """What the device moved."""
        return self.stat.read_bytes + self.stat.write_bytes


@dataclass(frozen=True, slots=True)
class Populated:
    """What was written before the clock started."""

    which: str
    objects: int
    bytes: int
    seconds: float
    fill_bytes: int
    """Written once over a new file, so that its first writes aren't the file system's."""
    settled_s: float
    reused: bool = False
    """Whether an earlier run's population was taken instead."""


@dataclass(frozen=True, slots=True)
class PayloadInfo:
    """What was written."""

    kind: str
    arena_bytes: int
    page_kind: str
    run_id: int
    stamped: bool
    verify: str
    verified_ops: int
    mismatched_ops: int
    mismatches: tuple[str, ...]
    dedup_ratio: int
    compress_ratio: int
    measured: Reduction | None
    """What a sample of what landed can be reduced by; None where it wasn't asked for."""
    checked_bytes: int = 0
    """Read and verified, by stamps or whole."""
    body_bytes: int = 0
    """Compared byte by byte with what was written."""
    body_reads: int = 0
    """Reads that were compared byte by byte."""
    coverage_ratio: float | None = None
    """Bytes that were compared ÷ `checked_bytes`; a stamp is 16 bytes of 512."""

    @property
    def coverage(self) -> str:
        """What was verified of the bytes read, in a few words."""
        if self.coverage_ratio is None:
            return "no read was verified"
        share = f"{self.coverage_ratio:.1%} of bytes"
        if not self.body_bytes:
            return f"stamps only ({share})"
        if self.body_bytes == self.checked_bytes:
            return "every byte"
        reads = f"{format_count(self.body_reads)} of {format_count(self.verified_ops)} reads"
        return f"every stamp, and every byte of {reads} ({share})"


@dataclass(frozen=True, slots=True)
class ToolCost:
    """What the tool itself took."""

    engine: str
    engine_note: str
    spin: bool
    cpu_ns: int
    verify_cpu_ns: int
    survey_s: float
    survey_rows_per_cpu_s: float
    plan_cpu_s: float
    plan_ops_per_cpu_s: float
    plan_bytes_per_op: float
    plan_stalls: int
    payload_cpu_s: float
    payload_stalls: int
    drain_cpu_s: float
    priority: str
    """As obtained; says so where that isn't what was asked for."""
    threads: int
    memory_bytes: int
    """Most memory that the process had."""


@dataclass(frozen=True, slots=True, repr=False)
class Result:
    """A finished run. `lanes` has at least one."""

    verdict: Verdict
    lanes: tuple[LaneResult, ...]
    groups: Groups
    requests: RequestsMeasure | None
    """None where the trace names no requests."""
    fidelity: Fidelity
    skipped: tuple[Skipped, ...]
    errors: dict[str, int]
    """Failed ops by error."""
    populated: Populated
    payload: PayloadInfo
    tool: ToolCost
    environment: Environment
    trace: TraceInfo
    options: ReplayOptions
    start_ns: int
    """Clock zero of the run."""
    created_at_s: int
    """When the result was made, Unix time."""
    host_series: HostSeries | None
    """What the machine did, about every second; None in virtual time."""
    bpf: BlockLatency | None
    """What the block layer took; None where it wasn't asked for or couldn't be had."""
    kept: Done | None
    """All ops, of a run that isn't too long for that."""

    def __repr__(self) -> str:
        return f"<Result {self.verdict.word}: {self.totals.ops:,} ops>"

    @property
    def totals(self) -> Totals:
        """What all lanes did together."""
        return Totals(tuple(lane.measure for lane in self.lanes), self.groups.whole, self.trace)

    @property
    def headline(self) -> LaneResult:
        """The lane that the percentiles at the top are of."""
        tier = self.totals.headline.tier
        return next(lane for lane in self.lanes if lane.measure.tier == tier)

    @property
    def ops(self) -> int:
        """Ops that completed without error, all lanes."""
        return self.totals.ops

    @property
    def bytes(self) -> int:
        """Bytes read and written, all lanes."""
        return self.totals.bytes

    @property
    def bytes_per_s(self) -> float | None:
        """Bytes completed in the lanes' windows ÷ the longest window."""
        return self.totals.bytes_per_s

    @property
    def kv_tokens_per_s(self) -> float | None:
        """Throughput of all lanes in tokens of KV; None where the trace names no model."""
        return self.totals.kv_tokens_per_s(self.bytes_per_s)

    def document(self) -> ResultDocument:
        """Return the document that every report renders."""
        from replay.result.from_run import document_of  # it imports this module

        return document_of(self)

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
