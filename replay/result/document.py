"""The result of a run as every report shows it and as it is stored: typed, versioned, JSON.

`docs/results.md` explains it; `schema` writes its JSON schema. Names of fields are the keys. Times
are ns unless the name says otherwise, sizes are bytes.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kvtrace.fields import Section
from replay.device.sysfs import DeviceState
from replay.host.document import (
    BlockLatencyDocument,
    DeviceSeriesDocument,
    HostSeriesDocument,
)
from replay.host.environment import Environment
from replay.options import ReplayOptions
from replay.result.health import HealthDocument
from replay.result.model import PayloadInfo, Populated
from replay.result.reason import Reason
from replay.result.requests import RequestsDocument
from replay.result.summaries import Distribution, Percentiles
from replay.result.trace_info import TraceInfo
from replay.safety.marker import Preconditioned

SCHEMA_VERSION = 3
"""3 (27 November 2026) adds `requests`, `storage_health` and distributions per MiB, all of them
unknown in older results; `storage_throughput_tokens_per_sec` is of the requests' own ops only, as
its inventors count. 2 (24 November 2026) adds `kind`, `created_at_s`, means, distributions, heat
maps and the trace's header. Version 1 had no reader; its files are refused."""
READ_VERSIONS = (2, SCHEMA_VERSION)

Kind = Literal["replay", "ops"]
"""Origin of a result: a replay, or finished ops of any tool."""
Word = Literal["VALID", "INVALID", "UNJUDGED"]


class LatenessSummary(Percentiles):
    """Submit − due, and its parts; None where only the whole is known."""

    dependency_wait_ns: Percentiles | None
    slot_wait_ns: Percentiles | None
    burst_wait_ns: Percentiles | None
    host_lateness_ns: Percentiles | None


class HeatMap(Section):
    """Completed reads and writes: `counts[slice of time][class of service time]`.

    Classes lie between neighbouring `edges_ns`, slices begin at the clock's zero.
    """

    width_s: float
    edges_ns: list[int]
    counts: list[list[int]]
    counts_by_op: dict[str, list[list[int]]] = Field(
        {}, description="the same of reads and of writes; none in older results"
    )


class TimeSlices(Section):
    """One lane's slices of time as columns of equal length, from the clock's zero.

    Ops count where they complete; their bytes are spread over the time from submit to completion.
    """

    width_s: float
    begin_ns: list[int]
    due: list[int]
    completed: list[int]
    reads: list[int]
    writes: list[int]
    read_bytes: list[int]
    write_bytes: list[int]
    errors: list[int]
    lateness_max_ns: list[int]
    host_lateness_max_ns: list[int] | None
    in_flight_mean: list[float]
    read_service_p50_ns: list[int]
    read_service_p99_ns: list[int]
    write_service_p50_ns: list[int]
    write_service_p99_ns: list[int]
    response_p50_ns: list[int] | None
    response_p99_ns: list[int] | None


class Counters(Section):
    """What an engine counted on one lane."""

    retries: int
    short_transfers: int
    bad_sectors: int
    in_flight_max: int = Field(description="I/Os, the parts of objects")
    in_flight_ns: int = Field(0, description="times of I/Os from submit to completion, summed")
    planner_stalls: int
    payload_stalls: int
    enter_calls: int = Field(description="system calls of io_uring, to submit or to wait")
    timed_submits: int
    timed_submit_ns: int = Field(description="how long the timed ones of these calls took")
    checked_bytes: int = Field(0, description="bytes read and verified, by stamps or whole")
    body_bytes: int = Field(0, description="bytes compared with all that was written")
    body_reads: int = Field(0, description="reads compared byte by byte")


class IoLatency(Percentiles):
    """Latency of single I/Os of at least `size_class_bytes`, and less than twice as many."""

    size_class_bytes: int


class DeviceCounters(Section):
    """The block device's own counters, over the run."""

    read_ios: int
    read_merges: int
    read_bytes: int
    read_ms: int
    write_ios: int
    write_merges: int
    write_bytes: int
    write_ms: int
    read_latency_ms_mean: float | None
    write_latency_ms_mean: float | None
    device_bytes_per_byte_asked: float | None


class DriveChange(Section):
    """What happened to a drive during the run; None is unknown."""

    temperature_c: tuple[float, float] | None
    throttled: bool | None
    media_errors: int | None
    unsafe_shutdowns: int | None
    used_percent: int | None
    host_read_bytes: int | None
    host_written_bytes: int | None
    nand_written_bytes: int | None
    write_amplification: float | None


class Flight(Section):
    """How many were in flight, from the clock's start until the lane's last completion."""

    mean: float
    max: int


class InFlight(Section):
    """Objects' reads and writes, and the I/Os that they are divided into.

    `ios` is None where no I/O was asked for; its maximum is summed over the loop's threads.
    """

    ops: Flight
    ios: Flight | None


class LaneDocument(Section):
    """One executed tier. Tiers are never mixed in one percentile."""

    tier: str
    target: str
    title: str
    ops: int
    bytes: int
    device_bytes: int
    errors: int
    window_s: float
    window_ops: int
    window_bytes: int
    drain_s: float
    throughput_bytes_per_s: float | None
    read_bytes_per_s: float | None = Field(
        None, description="with `write_bytes_per_s` it is the throughput; unknown in older results"
    )
    write_bytes_per_s: float | None = None
    ops_per_s: float | None
    reads_per_s: float | None = Field(None, description="with `writes_per_s` it is `ops_per_s`")
    writes_per_s: float | None = None
    kv_tokens_per_s: float | None
    io_s: float = Field(description="summed service time of reads and writes in the window")
    service_ns: Percentiles
    response_ns: Percentiles | None
    lateness_ns: LatenessSummary | None
    service_distribution_ns: Distribution
    response_distribution_ns: Distribution | None
    on_schedule_ratio: float | None
    in_flight: InFlight | None = None
    in_flight_max: int | None = Field(description="I/Os; see `in_flight`")
    in_flight_mean: float = Field(description="ops; see `in_flight`")
    drift_ratio: float | None
    live_bytes_max: int | None
    live_objects_max: int | None
    space_needed_bytes: int | None = None
    warmup_ops: int
    counters: Counters | None
    io_ns: list[IoLatency]
    time_slices: TimeSlices
    heat_map: HeatMap | None
    device: DeviceCounters | None
    device_series: DeviceSeriesDocument | None = None
    device_state: DeviceState | None
    device_change: DriveChange | None
    preconditioned: Preconditioned | None


class GroupDocument(Section):
    """Ops of one tier × phase × op, as far as given also of one QoS or size class.

    Latencies are of ops that succeeded; None for ops that move nothing.
    """

    tier: str
    phase: str
    op: str
    qos: str | None = None
    size_class_bytes: int | None = None
    ops: int
    bytes: int
    errors: int
    service_ns: Percentiles | None
    response_ns: Percentiles | None
    service_distribution_ns: Distribution | None = None
    response_distribution_ns: Distribution | None = None
    service_per_mib_distribution_ns: Distribution | None = Field(
        default=None, description="service time per MiB; ops of less than that count as one"
    )


class NotExecuted(Section):
    """Ops and bytes of a tier that wasn't executed."""

    tier: str
    ops: int
    bytes: int


class PhaseFidelity(Section):
    """Ops and bytes of one phase: in the trace's executed tiers, and of those what was done."""

    phase: str
    trace_ops: int
    executed_ops: int
    trace_bytes: int
    executed_bytes: int


class FidelityDocument(Section):
    """How faithfully the run did what the trace says; None where the mode has no schedule."""

    submit_error_ns: Percentiles | None
    interarrival_distance_ns: float | None
    interarrival_due_ns: Distribution | None
    interarrival_submit_ns: Distribution | None
    in_flight_planned_max: float | None
    in_flight_actual_max: float
    stretch_ratio: float | None
    order_violations: int | None
    phases: list[PhaseFidelity]


class ToolDocument(Section):
    """What the tool itself took."""

    engine: str
    engine_note: str
    spin: bool
    page_size: str
    cpu_s: float
    cpu_s_per_gb: float | None
    verify_cpu_s: float
    threads: int
    priority: str
    memory_bytes_max: int
    survey_s: float
    survey_rows_per_cpu_s: float
    plan_cpu_s: float
    plan_ops_per_cpu_s: float
    plan_bytes_per_op: float
    plan_stalls: int
    payload_cpu_s: float
    payload_stalls: int
    drain_cpu_s: float


class ResultDocument(Section):
    """One result. What only a run of ours can know is None in one that is made from ops."""

    schema_version: int = SCHEMA_VERSION
    kind: Kind
    created_at_s: int = Field(description="Unix time")
    verdict: Word
    acceptable: bool = Field(description="whether the user accepted every reason")
    reasons: list[Reason]
    marks: list[Reason]
    warnings: list[Reason]
    window_s: float
    ops: int
    bytes: int
    throughput_bytes_per_s: float | None
    ops_per_s: float | None
    kv_tokens_per_s: float | None
    storage_throughput_tokens_per_sec: float | None
    errors: int
    errors_by_name: dict[str, int]
    headline_tier: str
    lateness_ns: LatenessSummary | None
    service_ns: Percentiles
    response_ns: Percentiles | None
    percentile_error_ratio_max: float
    lanes: list[LaneDocument]
    groups: list[GroupDocument]
    groups_by_qos: list[GroupDocument]
    groups_by_size: list[GroupDocument]
    requests: RequestsDocument | None = None
    storage_health: HealthDocument | None = None
    not_executed: list[NotExecuted]
    fidelity: FidelityDocument
    populate: Populated | None
    payload: PayloadInfo | None
    tool: ToolDocument | None
    environment: Environment | None
    host_series: HostSeriesDocument | None = None
    bpf: BlockLatencyDocument | None = None
    trace: TraceInfo
    config: ReplayOptions | None

    def __repr__(self) -> str:
        return f"<ResultDocument {self.verdict}: {self.ops:,} ops>"

    __str__ = __repr__

    @property
    def headline(self) -> LaneDocument:
        """The lane that the percentiles at the top are of."""
        return next(lane for lane in self.lanes if lane.tier == self.headline_tier)

    def groups_of(self, lane: LaneDocument) -> list[GroupDocument]:
        """Return a lane's groups."""
        return [group for group in self.groups if group.tier == lane.tier]
