"""Requests: what storage took of each, by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kvtrace.placement.rows import TraceRows
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Phase, Qos, Tier
from kvtrace.units import MS_NS
from replay.measure.requests.measure import Requests, RequestSink
from replay.ops.columns import NO_TIME_NS
from replay.ops.contract import Action, Mode
from replay.ops.done import Done
from replay.report.sections import requests as sections
from tests.support.making import write_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from kvtrace.trace.reader import Trace
    from replay.measure.requests.figures import RequestsDocument

EIO = 5


def ops(*rows: tuple[int, int, int], qos: Qos | None = None, phase: Phase = Phase.DECODE) -> Done:
    """Reads with these times: due, submit, complete, ms."""
    count = len(rows)
    due, submit, complete = np.array(rows, np.int64).reshape(count, 3).T * MS_NS
    nothing = np.zeros(count, np.int64)
    cell = Tier.NVME << 6 | phase << 4 | Op.READ << 2 | (0 if qos is None else qos + 1)
    values: dict[str, Any] = dict.fromkeys(Done.__dataclass_fields__, nothing)
    values |= {
        "cell": np.full(count, cell, np.uint8),
        "action": np.full(count, Action.READ, np.uint8),
        "due_ns": due,
        "submit_ns": submit,
        "complete_ns": complete,
    }
    return Done(**values)


def measured(requests: Requests) -> RequestsDocument:
    """Return what it says as a document."""
    found = requests.measure()
    assert found is not None
    return found


def exact(found: RequestsDocument) -> tuple[int, int, int]:
    """The longest of each time, which is exact, ms."""
    times = (found.end_to_end_ns, found.storage_io_ns, found.waited_ns)
    end_to_end, storage_io, waited = (each.max // MS_NS for each in times)
    return end_to_end, storage_io, waited


def request(*numbers: int) -> np.ndarray[Any, Any]:
    """Requests of ops."""
    return np.array(numbers, np.uint64)


def test_ops_that_overlap_are_waited_for_once() -> None:
    """Due 0 to 10, 0 to 20, then a pause, 50 to 60: 60 end to end, 38 summed, 30 waited."""
    requests = Requests(Mode.OPEN, 0)
    requests.add(ops((0, 1, 10), (0, 1, 20), (50, 50, 60)), request(7, 7, 7))
    found = measured(requests)
    assert (found.count, found.failed) == (1, 0)
    assert exact(found) == (60, 9 + 19 + 10, 30)


def test_rates_and_reads_of_requests() -> None:
    """Three requests of 3, 1 and 1 reads in 100 ms, one of which fails and isn't counted."""
    requests = Requests(Mode.OPEN, 0)
    requests.add(ops((0, 1, 10), (0, 1, 20), (50, 50, 60)), request(7, 7, 7))
    requests.add(ops((70, 70, 100)), request(8))
    failed = ops((10, 10, 90))
    failed.error[:] = EIO
    requests.add(failed, request(9))
    document = measured(requests)
    assert document.per_s == 2 / 0.1
    assert (document.reads_mean, document.reads_p50, document.reads_p99, document.reads_max) == (
        2, 1, 3, 3,
    )  # fmt: skip
    (section, *_) = sections.requests(document)
    assert any(
        "20 requests per second; reads per request: mean 2.0, P50 1, P99 3, max 3." in note
        for note in section.notes
    )


def test_writes_are_no_reads() -> None:
    """A request's stores count in its time, not in its reads."""
    requests = Requests(Mode.OPEN, 0)
    stored = ops((0, 1, 10))
    stored.cell[:] = stored.cell & 0b11110011 | Op.WRITE << 2
    requests.add(stored, request(7))
    requests.add(ops((0, 1, 10)), request(7))
    assert measured(requests).reads_max == 1


def test_batches_of_ops_make_no_difference() -> None:
    """A request's ops may come in several parts, others in between."""
    requests = Requests(Mode.OPEN, 0)
    requests.add(ops((0, 1, 10), (5, 5, 6)), request(7, 8))
    requests.add(ops((0, 1, 20)), request(7))
    requests.add(ops((50, 50, 60)), request(7))
    found = measured(requests)
    assert (found.count, exact(found)) == (2, (60, 38, 30))


def test_a_request_counts_from_its_first_time_though_that_be_zero() -> None:
    """An op may be due at 0 and complete there."""
    requests = Requests(Mode.OPEN, 0)
    requests.add(ops((0, 0, 0), (5, 5, 9)), request(1, 1))
    assert exact(measured(requests)) == (9, 4, 4)


def test_without_a_schedule_a_request_begins_as_it_is_submitted() -> None:
    """In max mode no op is due."""
    requests = Requests(Mode.MAX, 0)
    requests.add(ops((0, 4, 10)), request(1))
    assert exact(measured(requests)) == (6, 6, 6)


def test_demotions_and_promotions_are_nobodys() -> None:
    """They carry the request that forced them, and aren't its own."""
    requests = Requests(Mode.OPEN, 0)
    requests.add(ops((0, 0, 3)), request(1))
    for phase in (Phase.EVICT, Phase.PROMOTE):
        requests.add(ops((0, 0, 90), phase=phase), request(1))
    assert exact(measured(requests)) == (3, 3, 3)


@pytest.mark.parametrize("error", [EIO, -1])
def test_a_request_with_a_failed_op_is_in_no_time(error: int) -> None:
    """It is counted apart, in its class, too."""
    requests = Requests(Mode.OPEN, 0)
    done = ops((0, 0, 3), (0, 0, 500), (0, 0, 7), qos=Qos.BATCH)
    bad = np.array([0, error, 0], np.int32)
    requests.add(replace(done, error=bad), request(1, 2, 2))
    found = measured(requests)
    assert (found.count, found.failed, exact(found)) == (1, 1, (3, 3, 3))
    assert [(each.count, each.failed) for each in found.by_qos] == [(1, 1)]


def test_a_request_whose_op_never_began_has_failed() -> None:
    """An interrupted run leaves such ops behind, also where there is a warm-up."""
    requests = Requests(Mode.CLOSED, 0, warmup_ns=MS_NS)
    done = ops((2, 2, 3), (2, 2, 9))
    never = np.array([NO_TIME_NS, 2 * MS_NS])
    requests.add(replace(done, submit_ns=never, complete_ns=never), request(1, 2))
    assert measured(requests).failed == 1


def test_requests_that_began_before_the_window_are_left_out() -> None:
    """A warm-up takes whole requests."""
    requests = Requests(Mode.OPEN, 0, warmup_ns=10 * MS_NS)
    requests.add(ops((9, 9, 30), (11, 11, 12), (20, 20, 25)), request(1, 1, 2))
    found = measured(requests)
    assert (found.count, found.failed, exact(found)) == (1, 0, (5, 5, 5))


def test_a_class_meets_its_level_if_95_of_100_are_within_its_target() -> None:
    """The same requests miss it end to end and meet it by their waiting."""
    requests = Requests(Mode.OPEN, 0)
    for number in range(20):
        slow = 51 if number == 0 else 50
        requests.add(ops((0, 0, 20), qos=Qos.INTERACTIVE), request(number))
        requests.add(ops((60, 60, 60 + slow - 20), qos=Qos.INTERACTIVE), request(number))
    requests.add(ops((0, 0, 100), qos=Qos.RESPONSIVE), request(20))
    found = {each.qos: each for each in measured(requests).by_qos}
    assert set(found) == {"interactive", "responsive"}
    interactive, responsive = found["interactive"], found["responsive"]
    assert interactive.waited_level.target_p95_ns == 50 * MS_NS
    assert (interactive.waited_level.compliance_ratio, interactive.waited_level.met) == (0.95, True)
    assert interactive.end_to_end_level.compliance_ratio == 0
    assert interactive.end_to_end_level.met is False
    assert responsive.end_to_end_level.met


def test_a_class_all_of_whose_requests_failed_has_no_level() -> None:
    """Not measured is neither met nor missed."""
    requests = Requests(Mode.OPEN, 0)
    done = replace(ops((0, 0, 3), qos=Qos.BATCH), error=np.array([EIO], np.int32))
    requests.add(done, request(1))
    level = measured(requests).by_qos[0].waited_level
    assert (level.compliance_ratio, level.met) == (None, None)


def test_ops_without_a_request_are_nobodys() -> None:
    """Where no op names one there is nothing to say."""
    requests = Requests(Mode.OPEN, 0)
    nobody = np.ma.masked_array(request(0, 0), mask=[True, True])
    requests.add(ops((0, 0, 3), (0, 0, 4)), nobody)
    assert requests.measure() is None


def test_many_requests_are_told_apart() -> None:
    """Its table grows."""
    requests, count = Requests(Mode.OPEN, 0), 20_000
    numbers = np.arange(count).astype(np.uint64) << np.uint64(40)
    for begin in range(0, count, 5_000):
        rows = [(at, at, at + 1) for at in range(begin, begin + 5_000)]
        requests.add(ops(*rows), numbers[begin : begin + 5_000])
    found = measured(requests)
    assert (found.count, exact(found)) == (count, (1, 1, 1))


def test_requests_are_looked_up_in_the_trace_whatever_the_batches(tmp_path: Path) -> None:
    """A batch may be empty, or end within a row group; rows of other tiers are passed over."""
    count = 10
    tiers = [Tier.GPU if number % 3 == 0 else Tier.NVME for number in range(count)]
    rows = [(number, Op.READ, 4096, tiers[number], number, Phase.DECODE) for number in range(count)]
    numbers = np.ma.masked_array(np.arange(count).astype(np.uint64) // 2, mask=[False] * count)
    numbers[9] = np.ma.masked
    path = write_rows(tmp_path / "t.parquet", rows, request=numbers)
    with open_trace(path) as trace:
        in_parts = SimpleNamespace(
            columns=trace.columns, batches=lambda names, **_: thirds(trace, names)
        )
        for source in (trace, in_parts):
            sink = RequestSink(TraceRows(source), (Tier.NVME,), Requests(Mode.OPEN, 0))
            done = ops(*((at, at, at + 1) for at, tier in enumerate(tiers) if tier == Tier.NVME))
            for begin, end in ((0, 0), (0, 1), (1, 4), (4, 6)):
                sink.add(done.select(np.arange(begin, end)))
            assert measured(sink.requests).count == len({n // 2 for n in (1, 2, 4, 5, 7, 8)})


def thirds(trace: Trace, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield a trace's rows, three at a time."""
    for batch in trace.batches(names, nulls=True):
        for begin in range(0, len(batch["tier"]), 3):
            yield {name: values[begin : begin + 3] for name, values in batch.items()}
