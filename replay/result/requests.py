"""Requests in reports and stored results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from kvtrace.fields import Section
from replay.measure.requests.levels import MET_RATIO, TARGET_P95_NS
from replay.result.summaries import Percentiles, percentiles

if TYPE_CHECKING:
    from replay.measure.requests.measure import RequestsMeasure, RequestTimes


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


def document_of(measure: RequestsMeasure | None) -> RequestsDocument | None:
    """Return it as a document has it."""
    if measure is None:
        return None
    by_qos = [_of_class(each) for each in measure.by_qos]
    base: Literal["due", "submit"] = "submit" if measure.from_submit else "due"
    return RequestsDocument(**_times(measure.whole), counted_from=base, by_qos=by_qos)


def _times(times: RequestTimes) -> dict[str, Any]:
    return {
        "count": times.count,
        "failed": times.failed,
        "end_to_end_ns": percentiles(times.end_to_end),
        "storage_io_ns": percentiles(times.storage_io),
        "waited_ns": percentiles(times.waited),
    }


def _of_class(times: RequestTimes) -> QosRequestsDocument:
    assert times.qos is not None
    target_ns = TARGET_P95_NS[times.qos]

    def level(within: int | None) -> ServiceLevelDocument:
        assert within is not None, "it is of a class"
        ratio = within / times.count if times.count else None
        return ServiceLevelDocument(
            target_p95_ns=target_ns,
            compliance_ratio=ratio,
            met=None if ratio is None else ratio >= MET_RATIO,
        )

    return QosRequestsDocument(
        **_times(times),
        qos=times.qos.label,
        end_to_end_level=level(times.end_to_end_within),
        waited_level=level(times.waited_within),
    )
