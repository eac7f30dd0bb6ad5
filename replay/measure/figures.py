"""Figures of what finished ops amount to, each defined once: per lane, and per kind of op.

Names of fields are the keys of JSON reports. Times are ns unless the name says otherwise, sizes are
bytes. The recorder fills them from ops' times; what only a run of ours knows of a lane is None, or
empty, until the result is put together.
"""

from __future__ import annotations

from pydantic import Field

from kvtrace.fields import Section
from kvtrace.units import S_NS
from replay.device.sysfs import DeviceState
from replay.host.document import DeviceSeriesDocument
from replay.measure.summaries import Distribution, Percentiles
from replay.safety.marker import Preconditioned


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
    """How many were in flight, from the clock's start until the lane's last completion.

    An op or an I/O is in flight from its submit to its completion, whether it failed or not.
    """

    mean: float
    max: int


class RecordedFlight(Section):
    """What an engine kept in flight and moved: reads and writes of a tier, by its trace's times.

    From the tier's first submission to its last completion.
    """

    mean: float
    max: int
    bytes_per_s: float | None = Field(
        None, description="bytes of those that didn't fail ÷ that time; null where it is no time"
    )


class InFlight(Section):
    """Objects' reads and writes, and the I/Os that they are divided into.

    `ios` is None where no I/O was asked for; its maximum is summed over the loop's threads.
    """

    ops: Flight
    ios: Flight | None
    recorded: RecordedFlight | None = Field(
        None,
        description="ops when the trace was recorded, and what they moved; null of a trace without "
        "its engine's times",
    )


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

    @property
    def window_ns(self) -> int:
        """Length of the window; seconds of a run keep every ns."""
        return round(self.window_s * S_NS)

    def waited(self, part: str) -> Percentiles:
        """Return a part of the lateness, which every run of ours knows, by its name."""
        waited = getattr(self.lateness_ns, part)
        assert isinstance(waited, Percentiles)
        return waited


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
