"""Does the jobs of EXTERNAL lanes: copies between the loop's memory and a device's pool.

What an op's times mean: it is submitted when its copy is handed to the device, and complete when
the event after the copy happened, by the device's clock. That clock is tied to CLOCK_MONOTONIC by
an event that happened during a call of known beginning and end. Every `_RENEW_NS` it is tied anew,
since the clocks drift and the distance of two events has 24 bits. Beside copies that call can take
milliseconds: then the tie before it, grown old, is still the better one.
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kvtrace.units import MS_NS, S_NS, US_NS
from replay import clock
from replay.engine.native.mailbox import Job, Mailbox, MailboxClosedError, Request
from replay.payload.memory import at_address

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from replay.targets.support.accelerator import Device

_IDLE_NS = 100 * MS_NS
_BUSY_NS = 20 * US_NS
"""How long to wait for a job: with copies under way their ends are looked for."""
_RENEW_NS = 100 * MS_NS
_DRIFT_NS_PER_S = 20_000
"""How fast the two clocks may part; a quartz is some 10 ppm off."""
_TIES = 5
STAGING_SLOTS = 8


@dataclass(frozen=True, slots=True)
class Tie:
    """An event of the device and when it happened, give or take `error_ns`."""

    event: Any
    host_ns: int
    error_ns: int

    def error_ns_at(self, now_ns: int) -> int:
        """Return how far times tied to it may be off later."""
        return self.error_ns + (now_ns - self.host_ns) * _DRIFT_NS_PER_S // S_NS


@dataclass(slots=True)
class _Region:
    """Memory that jobs refer to, by how many lanes."""

    address: int
    bytes: NDArray[np.uint8]
    host: Any
    pinned: bool
    users: int = 1

    def holds(self, address: int) -> bool:
        return self.address <= address < self.address + len(self.bytes)


@dataclass(frozen=True, slots=True)
class _Slot:
    """Pinned memory for one copy, where the loop's own can't be pinned."""

    host: Any
    bytes: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Flight:
    """A copy under way."""

    job: Job
    event: Any
    tie: Tie
    submit_ns: int
    slot: _Slot | None


@dataclass(slots=True)
class Copier:
    """Empties a mailbox. `start` it, and `stop` it when no lane uses the mailbox any more."""

    device: Device
    mailbox: Mailbox
    now_ns: Callable[[], int] = clock.now_ns
    io_bytes: int = 0
    """Longest job that will come."""
    error_ns: int = 0
    """How far times may be off: half the call that tied the clocks, and their drift since."""
    staged: bool = False
    """Whether some memory couldn't be pinned."""
    failure: str = ""
    """What the device said of the first copy that failed."""
    _regions: list[_Region] = field(default_factory=list)
    _flights: dict[Request, deque[_Flight]] = field(
        default_factory=lambda: {Request.READ: deque(), Request.WRITE: deque()}
    )
    _unanswered: dict[int, Job] = field(default_factory=dict)
    """By piece."""
    _waiting: deque[Job] = field(default_factory=deque)
    """Jobs for which there is no slot."""
    _slots: list[_Slot] = field(default_factory=list)
    _slots_made: int = 0
    _tie: Tie | None = None
    _renew_at_ns: int = 0
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to do jobs, in a thread of its own. Raises RuntimeError."""
        self._tie = min((self._make_tie() for _ in range(_TIES)), key=lambda tie: tie.error_ns)
        self.error_ns = self._tie.error_ns
        self._renew_at_ns = self.now_ns() + _RENEW_NS
        self._thread = threading.Thread(target=self._run, name="kvtrace-copier")
        self._thread.start()

    def stop(self) -> None:
        """Return when the thread has ended."""
        self.mailbox.close()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        try:
            while self._step():
                pass
        finally:  # in any case, so that no thread waits for ever
            self.mailbox.close()
            self._abandon()

    def _step(self) -> bool:
        """Take a job and look after those under way; False when there will be no more."""
        busy = self._busy
        try:
            job = self.mailbox.take(_BUSY_NS if busy else _IDLE_NS)
        except MailboxClosedError:
            if not busy:
                return False
            job = None
        if job is not None:
            self.take(job)
        self.finish()
        return True

    @property
    def _busy(self) -> bool:
        return bool(self._waiting) or any(self._flights.values())

    def take(self, job: Job) -> None:
        """Answer a job, or start its copy."""
        self._unanswered[job.piece] = job
        if job.request == Request.MEMORY:
            self._learn(job)
        elif job.request == Request.FORGET:
            self._forget(job)
        elif job.request == Request.DELETE:
            self._answer(job, job.length_bytes)
        else:
            self._waiting.append(job)
            self._launch()

    def _answer(self, job: Job, result: int) -> None:
        now_ns = self.now_ns()
        self._done(job, result, now_ns, now_ns)

    def _done(self, job: Job, result: int, submit_ns: int, complete_ns: int) -> None:
        del self._unanswered[job.piece]  # first: once answered, its name may be another's
        self.mailbox.done(job, result, submit_ns, complete_ns)

    def _learn(self, job: Job) -> None:
        for region in self._regions:
            if region.address == job.address and len(region.bytes) == job.length_bytes:
                region.users += 1
                break
        else:
            try:
                self._regions.append(self._make_region(job))
            except RuntimeError as error:
                self._fail(job, None, error)
                return
        self._answer(job, 0)

    def _make_region(self, job: Job) -> _Region:
        pinned = self.device.pin(job.address, job.length_bytes)
        self.staged |= not pinned
        return _Region(
            job.address,
            at_address(job.address, job.length_bytes),
            self.device.host(job.address, job.length_bytes),
            pinned,
        )

    def _forget(self, job: Job) -> None:
        for region in self._regions:
            if region.address == job.address and len(region.bytes) == job.length_bytes:
                region.users -= 1
                if region.users == 0:
                    self._regions.remove(region)
                    if region.pinned:
                        self.device.unpin(region.address)
                break
        self._answer(job, 0)

    def _launch(self) -> None:
        """Start what waits, as far as there are slots."""
        while self._waiting:
            job = self._waiting[0]
            region = next(region for region in self._regions if region.holds(job.address))
            slot = None
            if not region.pinned:
                slot = self._take_slot()
                if slot is None:
                    return
            self._waiting.popleft()
            try:
                self._copy(job, region, slot)
            except RuntimeError as error:
                self._fail(job, slot, error)

    def _take_slot(self) -> _Slot | None:
        if not self._slots and self._slots_made < STAGING_SLOTS:
            self._slots_made += 1
            self._slots.append(_Slot(*self.device.staging(self.io_bytes)))
        return self._slots.pop() if self._slots else None

    def _copy(self, job: Job, region: _Region, slot: _Slot | None) -> None:
        begin, length = job.address - region.address, job.length_bytes
        write = job.request == Request.WRITE
        host, at = (region.host, begin) if slot is None else (slot.host, 0)
        if slot is not None and write:
            slot.bytes[:length] = region.bytes[begin : begin + length]
        tie = self._tied()
        submit_ns = self.now_ns()
        copy = self.device.copy_in if write else self.device.copy_out
        event = copy(job.offset_bytes, host, at, length)
        self._flights[job.request].append(_Flight(job, event, tie, submit_ns, slot))

    def finish(self) -> None:
        """Answer the jobs whose copies are over."""
        for flights in self._flights.values():
            while flights:
                flight = flights[0]
                try:
                    if not self.device.done(flight.event):
                        break
                    complete_ns = self._time_of(flight)
                except RuntimeError as error:
                    flights.popleft()
                    self._fail(flight.job, flight.slot, error)
                    continue
                flights.popleft()
                self._deliver(flight)
                job = flight.job
                self._done(job, job.length_bytes, flight.submit_ns, complete_ns)
        self._launch()

    def _deliver(self, flight: _Flight) -> None:
        """Give the slot back; what was read into it goes where the loop wants it."""
        job, slot = flight.job, flight.slot
        if slot is None:
            return
        if job.request == Request.READ:
            at_address(job.address, job.length_bytes)[:] = slot.bytes[: job.length_bytes]
        self._slots.append(slot)

    def _fail(self, job: Job, slot: _Slot | None, error: RuntimeError) -> None:
        self.failure = self.failure or str(error)
        if slot is not None:
            self._slots.append(slot)
        self._answer(job, -errno.EIO)

    def _abandon(self) -> None:
        """Let all that was taken and not answered fail."""
        for job in list(self._unanswered.values()):
            self._answer(job, -errno.EIO)

    def _time_of(self, flight: _Flight) -> int:
        return flight.tie.host_ns + self.device.elapsed_ns(flight.tie.event, flight.event)

    def _tied(self) -> Tie:
        """Return how the clocks were tied last, or better before."""
        if self._tie is None or self.now_ns() >= self._renew_at_ns:
            tie = self._make_tie()
            now_ns = self.now_ns()
            if self._tie is None or tie.error_ns <= self._tie.error_ns_at(now_ns):
                self._tie = tie
            self._renew_at_ns = now_ns + _RENEW_NS
            self.error_ns = max(self.error_ns, self._tie.error_ns_at(now_ns))
        return self._tie

    def _make_tie(self) -> Tie:
        begin_ns = self.now_ns()
        event = self.device.instant()
        end_ns = self.now_ns()
        return Tie(event, (begin_ns + end_ns) // 2, (end_ns - begin_ns + 1) // 2)
