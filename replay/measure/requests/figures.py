"""Figures of requests, each defined once."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kvtrace.fields import Section
from replay.measure.summaries import Percentiles


class ServiceLevelDocument(Section):
    """How many of a class's requests were within its target; None where none completed."""

    target_p95_ns: int
    compliance_ratio: float | None
    met: bool | None


class RequestTimesDocument(Section):
    """Times of requests of which no op failed."""

    count: int
    failed: int = Field(description="requests with an op that failed: in no time")
    end_to_end_ns: Percentiles = Field(
        description="from when the first op was due until the last one completed, the time for "
        "generation that the trace has between them included"
    )
    storage_io_ns: Percentiles = Field(description="sum of the ops' service times")
    waited_ns: Percentiles = Field(
        description="how long an op of the request was due and hadn't completed"
    )


class QosRequestsDocument(RequestTimesDocument):
    """Requests of one class of urgency, end to end and by their waiting for storage alone."""

    qos: str
    end_to_end_level: ServiceLevelDocument
    waited_level: ServiceLevelDocument


class RequestsDocument(RequestTimesDocument):
    """Requests with executed reads or writes; demotions are not attributed to any request."""

    counted_from: Literal["due", "submit"] | None = Field(
        None,
        description="where end to end and waiting begin: when ops were due, or, where nothing is "
        "due (mode max), when they were submitted; null in older results",
    )
    by_qos: list[QosRequestsDocument]
    per_s: float | None = Field(
        None, description="requests per second, from the begin of the first to the end of the last"
    )
    reads_mean: float | None = Field(None, description="reads of a request; null in older results")
    reads_p50: int | None = None
    reads_p99: int | None = None
    reads_max: int | None = None
