"""The result of a run as every report shows it and as it is stored: typed, versioned, JSON.

Each figure is defined once: here, or, if it is measured, in `replay.measure`. `docs/results.md`
explains them; `schema` writes the JSON schema. Names of fields are the keys. Times are ns unless
the name says otherwise, sizes are bytes.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kvtrace.fields import Section
from kvtrace.units import format_count
from replay.host.document import BlockLatencyDocument, HostSeriesDocument
from replay.host.environment import Environment
from replay.measure.fidelity import FidelityDocument, NotExecuted
from replay.measure.figures import GroupDocument, LaneDocument, LatenessSummary
from replay.measure.requests.figures import RequestsDocument
from replay.measure.summaries import Percentiles
from replay.options import ReplayOptions
from replay.payload.reduction import Reduction
from replay.result.health import HealthDocument
from replay.result.reason import Reason
from replay.result.trace_info import TraceInfo

SCHEMA_VERSION = 3
"""3 (27 November 2026) adds `requests`, `storage_health` and distributions per MiB, all of them
unknown in older results; `storage_throughput_tokens_per_sec` is of the requests' own ops only, as
its inventors count. 2 (24 November 2026) adds `kind`, `created_at_s`, means, distributions, heat
maps and the trace's header. Version 1 had no reader; its files are refused."""
READ_VERSIONS = (2, SCHEMA_VERSION)

Kind = Literal["replay", "ops"]
"""Origin of a result: a replay, or finished ops of any tool."""
Word = Literal["VALID", "INVALID", "UNJUDGED"]


class Populated(Section):
    """What was written before the clock started."""

    which: str
    objects: int
    bytes: int
    seconds: float
    fill_bytes: int = Field(
        description="written once over a new file, so that its first writes aren't the file "
        "system's"
    )
    settled_s: float
    reused: bool = Field(False, description="whether an earlier run's population was taken")


class PayloadInfo(Section):
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
    measured: Reduction | None = Field(
        description="what a sample of what landed can be reduced by; None where it wasn't asked for"
    )
    checked_bytes: int = Field(0, description="read and verified, by stamps or whole")
    body_bytes: int = Field(0, description="compared byte by byte with what was written")
    body_reads: int = Field(0, description="reads that were compared byte by byte")
    coverage_ratio: float | None = Field(
        None, description="bytes that were compared ÷ `checked_bytes`; a stamp is 16 bytes of 512"
    )

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


class ToolDocument(Section):
    """What the tool itself took."""

    engine: str
    engine_note: str
    spin: bool
    page_size: str
    cpu_s: float
    cpu_s_per_gb: float | None = Field(description="None while nothing was moved")
    verify_cpu_s: float
    threads: int
    priority: str = Field(description="as obtained; says so where that isn't what was asked for")
    memory_bytes_max: int = Field(description="most memory that the process had")
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
