"""EXTERNAL lanes: the loop asks, a thread of the caller's does, and nobody waits for ever."""

from __future__ import annotations

import errno
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kvtrace.errors import TargetError
from replay import clock
from replay.engine.native.mailbox import Job, Mailbox, MailboxClosedError, Request
from replay.ops.columns import INTERRUPTED, NO_TIME_NS, VERIFY_FAILED
from replay.ops.contract import Action, Control, Lane, LaneKind, Verify
from replay.payload.memory import at_address
from tests.support import native_kit as kit
from tests.support.native_kit import (
    HOUR_NS,
    KIB,
    MIB,
    NULL_LANE,
    assert_order,
    make_ops,
    options,
    run,
    when_completed,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from replay.engine import native

PIECE = 64 * KIB


class Pool:
    """Does jobs with a pool of memory; keeps what it was asked for."""

    def __init__(self, size_bytes: int) -> None:
        self.bytes = np.zeros(size_bytes, np.uint8)
        self.jobs: list[Job] = []

    def __call__(self, job: Job) -> int:
        self.jobs.append(job)
        if job.request in (Request.READ, Request.WRITE):
            there = self.bytes[job.offset_bytes : job.offset_bytes + job.length_bytes]
            memory = at_address(job.address, job.length_bytes)
            if job.request == Request.WRITE:
                there[:] = memory
            else:
                memory[:] = there
        return job.length_bytes


@contextmanager
def executed(do: Callable[[Job], int], threads: int = 1) -> Iterator[Mailbox]:
    """Give a mailbox that so many threads empty until the end."""
    mailbox = Mailbox(256)

    def work() -> None:
        while True:
            try:
                job = mailbox.take(1_000_000)
            except MailboxClosedError:
                return
            if job is not None:
                begin_ns = clock.now_ns()
                mailbox.done(job, do(job), begin_ns, clock.now_ns())

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield mailbox
    finally:
        mailbox.close()
        for worker in workers:
            worker.join()
        mailbox.release()


def lane_of(mailbox: Mailbox, queue_depth: int = 8) -> Lane:
    return Lane(LaneKind.EXTERNAL, queue_depth, PIECE, mailbox=mailbox.address)


@pytest.mark.parametrize("lanes", [1, 3])
def test_what_was_asked_for_is_done(
    engine: native.NativeEngine, arena: NDArray[np.uint8], lanes: int
) -> None:
    """Writes, then reads of them in pieces, by several lanes and threads on one mailbox."""
    pool = Pool(8 * MIB)
    places = np.arange(24) * 5 * PIECE // 2
    edges = [(i, i + 24) for i in range(24)]
    rows = make_ops(
        48,
        edges=edges,
        action=[Action.WRITE] * 24 + [Action.READ] * 24,
        lane=np.arange(48) * 7 % lanes,
        key=np.arange(48) % 24,
        offset_bytes=np.tile(places, 2),
        arena_bytes=np.tile(places, 2),
        length_bytes=5 * PIECE // 2,
    )
    with executed(pool, threads=3) as mailbox:
        outcome = run(engine, (lane_of(mailbox),) * lanes, rows, options(arena))
    assert not outcome.times.error.any()
    assert_order(outcome, edges)
    assert sum(job.request == Request.WRITE for job in pool.jobs) == 24 * 3
    assert {job.key for job in pool.jobs if job.request == Request.READ} == set(range(24))
    told = [job.request for job in pool.jobs if job.request >= Request.MEMORY]
    assert told.count(Request.MEMORY) == told.count(Request.FORGET) == 2 * lanes


def test_memory_is_told_of_before_it_is_used(
    engine: native.NativeEngine, arena: NDArray[np.uint8]
) -> None:
    """All that jobs refer to lies in the arena or in read buffers that were announced."""
    pool = Pool(MIB)
    with executed(pool) as mailbox:
        run(engine, (lane_of(mailbox),), make_ops(4, action=Action.WRITE), options(arena))
        run(engine, (lane_of(mailbox),), make_ops(4, key=np.arange(4)), options(arena))
    known: list[tuple[int, int]] = []
    for job in pool.jobs:
        span = (job.address, job.address + job.length_bytes)
        if job.request == Request.MEMORY:
            known.append(span)
        elif job.request == Request.FORGET:
            known.remove(span)
        else:
            assert any(low <= span[0] and span[1] <= high for low, high in known)
    assert known == []


def test_deletes_are_asked_for_and_count_no_bytes(
    engine: native.NativeEngine, arena: NDArray[np.uint8]
) -> None:
    """A delete is a job of its own, however long the object, with the times of one."""
    pool = Pool(MIB)
    control = Control(1)
    rows = make_ops(1, action=Action.DELETE, length_bytes=12 << 30, key=5)
    with executed(pool) as mailbox:
        outcome = run(engine, (lane_of(mailbox),), rows, options(arena), control)
    assert outcome.times.error.tolist() == [0]
    job = next(job for job in pool.jobs if job.request == Request.DELETE)
    assert (job.key, job.address) == (5, 0)
    assert job.length_bytes == int(rows.ops.length_sectors[0]) * 512
    assert outcome.times.complete_ns[0] >= outcome.times.submit_ns[0] >= outcome.start_ns
    assert (control.completed_ops[0], control.completed_bytes[0]) == (1, 0)


def test_errors_and_wrong_bytes_are_the_ops(
    engine: native.NativeEngine, arena: NDArray[np.uint8]
) -> None:
    """−errno fails the op, what wasn't written fails verification, a short job is continued."""
    pool = Pool(MIB)

    def do(job: Job) -> int:
        if job.key == 1 and job.request == Request.WRITE:
            return -errno.ENOSPC
        if job.request == Request.WRITE and job.length_bytes == PIECE:
            return pool(job) // 2
        return pool(job)

    edges = [(0, 2), (1, 3)]
    rows = make_ops(
        5,
        edges=edges,
        action=[Action.WRITE, Action.WRITE, Action.READ, Action.READ, Action.READ],
        key=[0, 1, 0, 1, 2],
        offset_bytes=[0, PIECE, 0, PIECE, 2 * PIECE],
        arena_bytes=[0, PIECE, 0, PIECE, 2 * PIECE],
        length_bytes=PIECE,
    )
    with executed(do) as mailbox:
        outcome = run(engine, (lane_of(mailbox),), rows, options(arena))
    assert outcome.times.error.tolist() == [0, errno.ENOSPC, 0, -1, VERIFY_FAILED]
    assert outcome.counters[0].short_transfers == 1


def test_times_stay_within_what_is_possible(
    engine: native.NativeEngine, arena: NDArray[np.uint8]
) -> None:
    """A clock that errs can't let a job begin before it was asked for, or end in the future."""
    mailbox = Mailbox(64)

    def work() -> None:
        shifts = iter([-HOUR_NS, HOUR_NS] * 8)
        while True:
            try:
                job = mailbox.take(1_000_000)
            except MailboxClosedError:
                return
            if job is not None:
                when_ns = clock.now_ns() + next(shifts)
                mailbox.done(job, job.length_bytes, when_ns, when_ns)

    worker = threading.Thread(target=work)
    worker.start()
    rows = make_ops(6, edges=[(i, i + 1) for i in range(5)])
    outcome = run(engine, (lane_of(mailbox, 1),), rows, options(arena, verify=Verify.NONE))
    mailbox.close()
    worker.join()
    mailbox.release()
    times = outcome.times
    assert (times.submit_ns >= times.ready_ns).all()
    assert (times.complete_ns >= times.submit_ns).all()
    assert times.complete_ns.max() <= clock.now_ns()
    assert_order(outcome, [(i, i + 1) for i in range(5)])


def test_a_stop_waits_for_what_is_in_flight(
    engine: native.NativeEngine, arena: NDArray[np.uint8]
) -> None:
    """After a stop nothing more is asked for, and what was is answered."""
    pool, control = Pool(MIB), Control(1)
    rows = make_ops(3, due_ns=[0, 0, HOUR_NS], action=Action.WRITE, arena_bytes=[0, 4096, 8192])
    stopper = when_completed(control, 2, lambda: control.stop.fill(1))
    with executed(pool) as mailbox:
        chosen = options(arena, mode=kit.Mode.OPEN)
        outcome = run(engine, (lane_of(mailbox),), rows, chosen, control)
    stopper.join()
    assert outcome.times.error.tolist() == [0, 0, INTERRUPTED]
    assert outcome.times.submit_ns[2] == NO_TIME_NS


def test_a_closed_mailbox_fails_what_nobody_took(
    engine: native.NativeEngine, arena: NDArray[np.uint8]
) -> None:
    """An executor that gives up after one op: the others end with ECANCELED, none hangs."""
    mailbox = Mailbox(64)

    def work() -> None:
        done = 0
        while done < 1:
            job = mailbox.take(1_000_000)
            if job is not None:
                now_ns = clock.now_ns()
                mailbox.done(job, job.length_bytes, now_ns, now_ns)
                done += job.request < Request.MEMORY
        mailbox.close()

    worker = threading.Thread(target=work)
    worker.start()
    rows = make_ops(9, lane=[0] * 8 + [1])
    lanes = (lane_of(mailbox, 2), NULL_LANE)
    outcome = run(engine, lanes, rows, options(arena, verify=Verify.NONE))
    worker.join()
    mailbox.release()
    assert sorted(outcome.times.error.tolist()) == [0, 0] + [errno.ECANCELED] * 7


def test_a_lane_of_a_closed_mailbox_does_not_open(
    engine: native.NativeEngine, arena: NDArray[np.uint8]
) -> None:
    """Whoever was to do the jobs is gone: an error before the clock starts."""
    mailbox = Mailbox(64)
    mailbox.close()
    with pytest.raises(TargetError, match="mailbox of lane 0"):
        run(engine, (lane_of(mailbox),), make_ops(1), options(arena))
    with pytest.raises(MailboxClosedError):
        mailbox.take(0)
    mailbox.release()
    mailbox.release()


def test_memory_that_is_refused_ends_the_call(
    engine: native.NativeEngine, arena: NDArray[np.uint8]
) -> None:
    """The answer to being told of memory can be an errno: that of the call."""
    refusal = r"mailbox of lane 0.*Cannot allocate memory"
    do = {Request.MEMORY: -errno.ENOMEM}
    with (
        executed(lambda job: do.get(job.request, 0)) as mailbox,
        pytest.raises(TargetError, match=refusal),
    ):
        run(engine, (lane_of(mailbox),), make_ops(1), options(arena))


def test_impossible_mailboxes_are_refused(
    engine: native.NativeEngine, arena: NDArray[np.uint8]
) -> None:
    """A capacity that is no power of two, or too small for its lanes; and none at all."""
    with pytest.raises(TargetError, match="can't make a mailbox"):
        Mailbox(3)
    small = Mailbox(4)
    with pytest.raises(TargetError, match=r"mailbox of lane 0.*No space"):
        run(engine, (lane_of(small),), make_ops(1), options(arena))
    small.release()
    with pytest.raises(TargetError, match="lane 0: has no mailbox"):
        run(engine, (Lane(LaneKind.EXTERNAL, 1, PIECE),), make_ops(1), options(arena))


def test_an_answer_to_no_job_is_a_mistake() -> None:
    """A job can be answered once, and only if there is one."""
    mailbox = Mailbox(4)
    with pytest.raises(AssertionError, match="isn't waited for"):
        mailbox.done(Job(0, Request.READ, 0, 0, 0, 0), 0, 0, 0)
    assert mailbox.take(0) is None
    assert mailbox.take(1000) is None
    mailbox.release()
