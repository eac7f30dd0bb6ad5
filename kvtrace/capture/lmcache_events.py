"""LMCache's event bus: ops of the cpu tier, and which request asked for which blocks.

The bus's thread only queues an event; the writer's thread makes tasks of it. Events carry the
date, which the latest anchor puts on the monotonic clock.

Events and their fields: LMCache 0.5.6, `v1/distributed/l1_manager.py`, `storage_manager.py` and
`v1/multiprocess/modules/lookup.py`. MP_TOKENS is never subscribed to: it makes the server build
lists of tokens, which are the prompts' text.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

from lmcache.v1.mp_observability.event import EventType
from lmcache.v1.mp_observability.event_bus import EventSubscriber

from kvtrace.capture import moment
from kvtrace.capture.table import Task, task_of
from kvtrace.capture.words import CPU, DECODE, DELETE, EVICT, PREFILL, PROMOTE, READ, WRITE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvtrace.capture.identity import Known
    from kvtrace.capture.recorder import Recorder

MOST_BLOCKS = 1 << 17
"""Blocks whose last request is remembered, twice at most."""
_SIZE = attrgetter("size_bytes")


class Remembered(dict[Any, Any]):
    """A dictionary that forgets its older half when it is full."""

    def __init__(self, most: int = MOST_BLOCKS) -> None:
        super().__init__()
        self._most = most
        self._older: dict[Any, Any] = {}

    def learn(self, keys: Sequence[Any], values: Sequence[Any] | Any) -> None:
        """Set the values of keys: a list of them, or one for all."""
        if len(self) > self._most:
            self._older = dict(self)
            self.clear()
        one = not isinstance(values, list)
        self.update(dict.fromkeys(keys, values) if one else zip(keys, values, strict=True))

    def take(self, key: Any, default: Any) -> Any:
        """Return the value of a key and forget it; the default if there is none."""
        value = self.pop(key, None)
        return self._older.pop(key, default) if value is None else value

    def recall(self, key: Any, default: Any = None) -> Any:
        """Return the value of a key, the default if it is forgotten."""
        value = self.get(key)
        return self._older.get(key, default) if value is None else value


class Requests:
    """The request that asked for a block last; of two in flight with one prefix, the later one."""

    def __init__(self) -> None:
        self._of_block = Remembered()

    def learn(self, request: Any, hashes: Sequence[Any]) -> None:
        """Note that a request asks for blocks."""
        if hashes and not isinstance(hashes[0], bytes):
            hashes = [bytes.fromhex(one.removeprefix("0x")) for one in hashes]
        self._of_block.learn(hashes, request)

    def of(self, keys: Sequence[Any]) -> Any:
        """Return the request of a task: that of its last key's block, which the fewest share."""
        return self._of_block.recall(keys[-1].chunk_hash) if keys else None


def subscribe(bus: Any, recorder: Recorder, requests: Requests, *, trace_calls: bool) -> None:
    """Let a recorder hear the bus, once.

    `trace_calls`: also the calls that LMCache's own tracing reports, of which an engine without
    its server tells requests; they cost it some microseconds each.
    """
    if recorder.events is not None:
        return
    recorder.join_by(requests.of)
    recorder.at_end(bus_dropped=bus.dropped_events_count)
    events = Events(recorder, requests)
    recorder.events = events
    bus.register_subscriber(events)
    if trace_calls:
        from lmcache.v1.mp_observability.trace.decorator import set_tracing_enabled

        set_tracing_enabled(True)


class Events(EventSubscriber):  # type: ignore[misc]
    """The subscriber: state of the cpu tier as far as rows need it, in the writer's thread."""

    def __init__(self, recorder: Recorder, requests: Requests) -> None:
        self._recorder, self._requests = recorder, requests
        self._anchor = moment.anchor()
        self._reserved = Remembered()  # when a key was reserved to be written
        self._pinned = Remembered()  # when it was pinned to be read
        # A temporary object's eviction comes before the end of its read.
        self._size = Remembered()

    def get_subscriptions(self) -> dict[Any, Callable[[Any], Any]]:
        """Return the handler of each event; one that this version lacks is left out."""
        handlers = {
            "L1_WRITE_RESERVED": self._write_reserved,
            "L1_WRITE_FINISHED": self._written,
            "L1_WRITE_FINISHED_AND_READ_RESERVED": self._promoted,
            "L1_READ_RESERVED": self._read_reserved,
            "SM_READ_PREFETCHED_FINISHED": self._read,
            "L1_KEYS_EVICTED": self._evicted,
            "MP_LOOKUP": self._asked,
            "TRACE_CALL": self._called,
        }
        return {
            EventType[name]: self._queued(handler)
            for name, handler in handlers.items()
            if name in EventType.__members__
        }

    def _queued(self, handler: Callable[[Any], list[Task]]) -> Callable[[Any], Any]:
        recorder = self._recorder

        def queue(event: Any) -> None:
            metadata = event.metadata
            keys = metadata.get("keys") or metadata.get("succeeded_keys") or ()
            recorder.defer(handler, keys, event)

        queue.__name__ = handler.__name__
        return recorder.guard.hook(queue)

    def _when(self, event: Any) -> int:
        if moment.monotonic_ns() - self._anchor.mono_ns > moment.ANCHOR_EVERY_NS:
            self._anchor = moment.anchor()
        return self._anchor.monotonic(event.timestamp)

    def _known(self, keys: Any) -> tuple[Known, list[int]]:
        places = self._recorder.identities.places(keys)
        return places, self._recorder.identities.hashes(places)

    def _write_reserved(self, event: Any) -> list[Task]:
        self._reserved.learn(self._known(event.metadata["keys"])[1], self._when(event))
        return []

    def _written(self, event: Any) -> list[Task]:
        return self._write(event, PREFILL)

    def _promoted(self, event: Any) -> list[Task]:
        return self._write(event, PROMOTE) + self._read_reserved(event)

    def _write(self, event: Any, phase: int) -> list[Task]:
        keys = event.metadata["keys"]
        if not keys:  # another prefetch brought all of them
            return []
        when, sizes = self._when(event), list(map(_SIZE, event.metadata["meta"]))
        places, hashes = self._known(keys)
        self._size.learn(hashes, sizes)
        starts = [self._reserved.take(one, when) for one in hashes]
        request = self._requests.of(keys)
        return [task_of(WRITE, CPU, phase, starts, when, places, sizes, 0, request)]

    def _read_reserved(self, event: Any) -> list[Task]:
        self._pinned.learn(self._known(event.metadata["keys"])[1], self._when(event))
        return []

    def _read(self, event: Any) -> list[Task]:
        keys = event.metadata["succeeded_keys"]
        if not keys:
            return []
        when = self._when(event)
        places, hashes = self._known(keys)
        # Of each key its own pin: with the earliest one, promoted keys were read before written.
        pins = [self._pinned.recall(one, when) for one in hashes]
        sizes = [self._size.recall(one, 0) for one in hashes]
        request = self._requests.of(keys)
        return [task_of(READ, CPU, DECODE, pins, when, places, sizes, 0, request)]

    def _evicted(self, event: Any) -> list[Task]:
        keys = event.metadata["keys"]
        if not keys:
            return []
        when, sizes = self._when(event), list(map(_SIZE, event.metadata["meta"]))
        places = self._recorder.identities.places(keys)
        return [task_of(DELETE, CPU, EVICT, when, when, places, sizes)]

    def _asked(self, event: Any) -> list[Task]:
        self._requests.learn(event.metadata["request_id"], event.metadata["chunk_hashes"])
        return []

    def _called(self, event: Any) -> list[Task]:
        if event.metadata["qualname"].endswith("submit_prefetch_task"):
            arguments = event.metadata["args"]
            for group in arguments["spec"].key_groups:
                hashes = [key.chunk_hash for key in group.keys]
                self._requests.learn(arguments["external_request_id"], hashes)
        return []
