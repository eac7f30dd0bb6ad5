"""Results made by hand whose figures can be said without a computer."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.trace.header import Header
from kvtrace.trace.schema import Op, Phase, Tier
from kvtrace.trace.writer import TraceWriter
from replay.measure.requests.figures import (
    QosRequestsDocument,
    RequestsDocument,
    ServiceLevelDocument,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from replay.result.document import ResultDocument

OPS = 10_000
GAP_NS = 1_000_000
SIZE_BYTES = 1 << 20
US, MS, S = 1_000, 1_000_000, 1_000_000_000


def write_result(
    path: Path,
    submit: NDArray[np.int64],
    complete: NDArray[np.int64],
    error: NDArray[np.int32] | None = None,
    *,
    scheduled: bool = True,
) -> Path:
    """Write reads of 1 MiB, one due each millisecond, on tier nvme."""
    count = len(submit)
    due = np.arange(count) * GAP_NS
    columns = {
        "timestamp": due,
        "op": np.full(count, Op.READ, np.uint8),
        "size": np.full(count, SIZE_BYTES, np.uint64),
        "tier": np.full(count, Tier.NVME, np.uint8),
        "key": np.arange(count).astype(np.uint64),
        "phase": np.full(count, Phase.DECODE, np.uint8),
        "submit": submit,
        "complete": complete,
        "error": np.zeros(count, np.int32) if error is None else error,
    }
    if scheduled:
        columns["due"] = due
    names = [name for name in columns if name not in ("timestamp", "op", "size", "tier", "key")]
    with TraceWriter(path, Header(), [name for name in names if name != "phase"]) as writer:
        writer.append(columns)
    return path


def write_ops(
    path: Path,
    kind: tuple[Tier, Phase, Op],
    *,
    service_ns: int = 200 * US,
    size: int = SIZE_BYTES,
    count: int = 100,
    statistics: dict[str, Any] | None = None,
    layout: dict[str, Any] | None = None,
) -> Path:
    """Write ops of one tier × phase × op, each a second after the one before, in time."""
    tier, phase, op = kind
    due = np.arange(count, dtype=np.int64) * S
    columns = {
        "timestamp": due,
        "op": np.full(count, op, np.uint8),
        "size": np.full(count, size, np.uint64),
        "tier": np.full(count, tier, np.uint8),
        "key": np.arange(count).astype(np.uint64),
        "phase": np.full(count, phase, np.uint8),
        "due": due,
        "submit": due,
        "complete": due + service_ns,
    }
    header = Header(statistics=statistics or {}, layout=layout)
    with TraceWriter(path, header, ["due", "submit", "complete"]) as writer:
        writer.append(columns)
    return path


def due_ns() -> NDArray[np.int64]:
    """Return when each op is due."""
    return np.arange(OPS, dtype=np.int64) * GAP_NS


def constant(path: Path) -> Path:
    """Each takes 200 µs, in time."""
    return write_result(path, due_ns(), due_ns() + 200 * US)


def bimodal(path: Path) -> Path:
    """Nine of ten take 100 µs, each tenth 10 ms."""
    took = np.where(np.arange(OPS) % 10 == 9, 10 * MS, 100 * US)
    return write_result(path, due_ns(), due_ns() + took)


def one_stall(path: Path) -> Path:
    """Nothing completes from 3 s to 4 s; ops go on being submitted in time: 100 µs else."""
    complete = due_ns() + 100 * US
    still = (complete > 3 * S) & (complete <= 4 * S)
    return write_result(path, due_ns(), np.where(still, 4 * S, complete))


def errors(path: Path) -> Path:
    """Each hundredth fails with EIO after 50 ms; the others take 200 µs."""
    bad = np.arange(OPS) % 100 == 99
    complete = due_ns() + np.where(bad, 50 * MS, 200 * US)
    return write_result(path, due_ns(), complete, np.where(bad, errno.EIO, 0).astype(np.int32))


def omission(path: Path) -> Path:
    """One at a time: the one due at 3 s takes 1 s, others 100 µs, and those behind it wait."""
    submit, complete = np.zeros(OPS, np.int64), np.zeros(OPS, np.int64)
    free = 0
    for op, due in enumerate(due_ns().tolist()):
        submit[op] = max(due, free)
        complete[op] = free = submit[op] + (S if op == 3_000 else 100 * US)
    return write_result(path, submit, complete)


def with_requests(document: ResultDocument) -> ResultDocument:
    """Return a result with four requests, all interactive: two within the target, all by waiting.

    One more has failed; the times are those of the ops.
    """
    times = document.service_ns
    level = ServiceLevelDocument(target_p95_ns=50 * MS, compliance_ratio=0.5, met=False)
    counted = {
        "count": 4, "failed": 1, "end_to_end_ns": times, "storage_io_ns": times, "waited_ns": times
    }  # fmt: skip
    interactive = QosRequestsDocument(
        **counted,
        qos="interactive",
        end_to_end_level=level,
        waited_level=level.model_copy(update={"compliance_ratio": 1.0, "met": True}),
    )
    requests = RequestsDocument(**counted, by_qos=[interactive])
    return document.model_copy(update={"requests": requests})
