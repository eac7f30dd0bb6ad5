"""The mailbox of an EXTERNAL lane: the loop puts jobs in, a thread of Python's does them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from enum import IntEnum

from kvtrace.errors import TargetError
from replay.engine.native import library


class Request(IntEnum):
    """What a job asks for; the first three are those of `Action`, all are those of abi.h."""

    READ = 1
    WRITE = 2
    DELETE = 3
    MEMORY = 16
    """Know of memory that later jobs will refer to. The lane isn't open before it is answered."""
    FORGET = 17
    """That memory is about to be freed."""


@dataclass(frozen=True, slots=True)
class Job:
    """Something to be done. `piece` names it; `address`, `length_bytes`: memory it is about."""

    piece: int
    request: Request
    key: int
    offset_bytes: int
    length_bytes: int
    address: int


class MailboxClosedError(Exception):
    """Nothing is in the mailbox, and nothing will come."""


class Mailbox:
    """Jobs of one or more lanes. `take` and `done` may be called from any thread.

    A thread that takes jobs must answer each, or the lane waits for ever; once closed, the library
    answers those not yet taken. `release` it when no lane and no thread uses it any more.
    """

    def __init__(self, capacity: int) -> None:
        self._library = library.load()
        self.address: int = self._library.kv_mailbox_new(capacity) or 0
        if not self.address:
            raise TargetError(
                "can't make a mailbox",
                got=f"{capacity} jobs",
                accepted="a power of two, and memory for it",
            )

    def take(self, timeout_ns: int) -> Job | None:
        """Return the oldest job, or None if none came in time. Raises MailboxClosedError."""
        job = library.JobStruct()
        status = self._library.kv_mailbox_take(self.address, ctypes.byref(job), timeout_ns)
        if status < 0:
            raise MailboxClosedError
        if status == 0:
            return None
        return Job(
            job.piece,
            Request(job.action),
            job.key,
            job.offset,
            job.bytes,
            job.data,
        )

    def done(self, job: Job, result: int, submit_ns: int, complete_ns: int) -> None:
        """Say what came of a job: bytes moved, or −errno; wakes its lane.

        Times are ns on CLOCK_MONOTONIC; kept within those of putting the job in and of this call.
        """
        failed = self._library.kv_mailbox_done(
            self.address, job.piece, result, submit_ns, complete_ns
        )
        assert not failed, f"job {job.piece:#x} isn't waited for"

    def close(self) -> None:
        """Let all jobs not yet taken, and all that come, fail with ECANCELED."""
        if self.address:
            self._library.kv_mailbox_close(self.address)

    def release(self) -> None:
        """Free it. May be called twice."""
        if self.address:
            self._library.kv_mailbox_free(self.address)
            self.address = 0
