"""LMCache: record around any L2 adapter, and the cpu tier and requests by the event bus.

    lmcache server --l2-adapter '{"type": "plugin", "module_path": "kvtrace.capture.lmcache",
        "class_name": "RecordingL2", "adapter_params":
        {"inner": {"type": "fs", "base_path": "DIR"}, "out": "CAPTURE", "secret_file": "FILE"}}'

Facts of LMCache 0.5.6: `v1/distributed/l2_adapters/{base,plugin_l2_adapter,config}.py`.
The inner adapter is called first and bare; everything of ours is guarded, in line where each task
passes: a guard's own call would be a tenth of the time.
"""

from __future__ import annotations

import abc
from collections import deque
from errno import ECANCELED, EEXIST, EIO, ENOENT
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from kvtrace.capture.versions import check, installed

# Before anything of LMCache is imported: an older one hasn't all of it.
VERSION = installed("LMCache", "lmcache")
check("LMCache", VERSION, first=(0, 5), tested="0.5.6")

from lmcache.v1.distributed.internal_api import L2AdapterListener  # noqa: E402
from lmcache.v1.distributed.l2_adapters import create_l2_adapter  # noqa: E402
from lmcache.v1.distributed.l2_adapters.base import L2AdapterInterface  # noqa: E402
from lmcache.v1.distributed.l2_adapters.config import (  # noqa: E402
    L2AdapterConfigBase,
    get_l2_adapter_config_class,
)
from lmcache.v1.mp_observability.event_bus import get_event_bus  # noqa: E402

from kvtrace.capture.errors import CaptureError  # noqa: E402
from kvtrace.capture.guard import release_once  # noqa: E402
from kvtrace.capture.identity import Names  # noqa: E402
from kvtrace.capture.lmcache_events import Requests, subscribe  # noqa: E402
from kvtrace.capture.moment import monotonic_ns  # noqa: E402
from kvtrace.capture.proxy import forwarding  # noqa: E402
from kvtrace.capture.recorder import Recorder, shared  # noqa: E402
from kvtrace.capture.settings import Settings, settings_of, tier_of  # noqa: E402
from kvtrace.capture.words import DECODE, DELETE, EVICT, LOOKUP, PREFILL, READ, WRITE  # noqa: E402
from kvtrace.trace.schema import Tier  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kvtrace.capture.guard import Guard

PARAMETERS = ("inner", "tier", "bus", "trace_calls")
OBJECT_STORES = frozenset(
    {"s3", "mooncake_store", "hfbucket", "bigtable", "aerospike", "resp", "valkey", "p2p"}
)
_OUTER = ("eviction", "serde", "shared", "affinity_tag")
"""Options that LMCache reads of the outer configuration only."""

Told = deque[tuple[int, Any, Any]]
"""When an adapter told its listeners of keys, the keys, their sizes."""

KEY = attrgetter("chunk_hash", "model_name", "kv_rank", "object_group_id", "cache_salt")


def _key_bytes(key: Any) -> bytes:
    digest, model, rank, group, salt = KEY(key)
    return b"%s|%s|%d|%d|%s" % (digest, model.encode(), rank, group, salt.encode())


NAMES = Names(
    key_bytes=_key_bytes,
    block_bytes=attrgetter("chunk_hash"),
    rank_of=lambda key: key.kv_rank >> 16 & 0xFF,
    fields=KEY,
)


def _silent(cls: Any) -> Any:
    """Let abstract methods that a later version adds to a listener do nothing."""
    for name in cls.__abstractmethods__:
        setattr(cls, name, lambda *_: None)
    return abc.update_abstractmethods(cls)


class Bits:
    """A result bitmap, read in the writer's thread: LMCache doesn't change one that it returned."""

    __slots__ = ("bitmap", "code")

    def __init__(self, bitmap: Any, code: int) -> None:
        self.bitmap, self.code = bitmap, code

    def expand(self, count: int) -> list[int]:
        """Return 0 or the error of each key."""
        codes = [self.code] * count
        for index in self.bitmap.get_indices_list():
            codes[index] = 0
        return codes


class Skipped:
    """The outcomes of a store of which the inner adapter wrote a part only.

    LMCache tells the bytes; which keys they were, the inner adapter tells its listeners, perhaps a
    moment later. It tells those of a task together, so that the bytes show which they are.
    """

    __slots__ = ("bytes", "keys", "notices", "since")

    def __init__(self, notices: Told, since: int, keys: list[Any], bytes_written: int) -> None:
        self.notices, self.since, self.keys, self.bytes = notices, since, keys, bytes_written

    def expand(self, count: int) -> list[int]:
        """Return 0 for keys that were written, EEXIST for others."""
        if not self.bytes:
            return [EEXIST] * count
        own, late = set(self.keys), [one for one in list(self.notices) if one[0] >= self.since]
        exact = (set(keys) for _, keys, sizes in late if sum(sizes) == self.bytes)
        every = own.intersection(key for _, keys, _ in late for key in keys)
        written = next((keys for keys in exact if keys <= own), every)
        return [0 if key in written else EEXIST for key in self.keys]


class Deleted:
    """The outcomes of a deletion, of which the inner adapter tells the keys that are gone."""

    __slots__ = ("gone", "keys")

    def __init__(self, notices: Told, since: int, keys: list[Any]) -> None:
        self.keys = keys
        self.gone = [gone for at, gone, _ in list(notices) if at >= since]

    def expand(self, count: int) -> list[int]:
        """Return 0 for keys that are gone, ENOENT for others."""
        gone = {key for keys in self.gone for key in keys}
        return [0 if key in gone else ENOENT for key in self.keys]


@_silent
class Listener(L2AdapterListener):  # type: ignore[misc]
    """Keeps what the inner adapter tells last of keys that it stored or deleted."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self.stored: Told = deque(maxlen=1024)
        self.deleted: Told = deque(maxlen=64)

    def on_l2_keys_stored(self, keys: Any, sizes: Any = (), *_: Any) -> None:
        """Note keys that were written."""
        self._guard(self._note_stored, keys, sizes)

    def _note_stored(self, keys: Any, sizes: Any) -> None:
        self.stored.append((monotonic_ns(), keys, sizes))

    def on_l2_keys_deleted(self, keys: Any, *_: Any) -> None:
        """Note keys that are gone."""
        self._guard(self._note_deleted, keys)

    def _note_deleted(self, keys: Any) -> None:
        self.deleted.append((monotonic_ns(), keys, ()))


@forwarding(L2AdapterInterface)
class RecordingL2(L2AdapterInterface):  # type: ignore[misc]
    """Records what passes to and from the adapter of the parameter `inner`."""

    def __init__(self, params: Mapping[str, Any], l1_memory_desc: Any = None, **more: Any) -> None:
        """Make the inner adapter and begin to record.

        Raises CaptureError for wrong parameters, and what LMCache raises for a wrong `inner`.
        """
        settings = settings_of(params, PARAMETERS)
        kind, config = _inner(params)
        tier = tier_of(params, Tier.OBJECT if kind in OBJECT_STORES else Tier.NVME)
        self._tier = int(tier)
        # LMCache looks for `inner_adapter` where it reconfigures one.
        self.inner = self.inner_adapter = create_l2_adapter(config, l1_memory_desc, **more)
        super().__init__()
        self._stores: dict[Any, tuple[int, list[Any], list[int]]] = {}
        self._loads: dict[Any, tuple[int, list[Any], list[int]]] = {}
        self._lookups: dict[Any, tuple[int, list[Any], int]] = {}
        started = False
        try:
            self._recorder = self._start(settings, params, kind, tier)
            started = True
        finally:
            if not started:
                self.inner.close()
        self._guard, self._record = self._recorder.guard, self._recorder.task
        self._release = release_once(self._recorder)
        self._told = Listener(self._guard)
        self._guard(self.inner.register_listener, self._told)

    def _start(
        self, settings: Settings, params: Mapping[str, Any], kind: str, tier: Tier
    ) -> Recorder:
        bus = get_event_bus()
        listens = bool(bus.enabled and params.get("bus", True))
        header = {
            "complete_is": {"cpu": "pin time", tier.label: "poll"},
            "not_visible": ["gpu tier", *([] if listens else ["cpu tier", "requests"])],
            "adapter": {"inner": kind, "event_bus": listens},
        }
        recorder = shared(settings, "lmcache", VERSION, names=NAMES, header=header)
        if listens:
            subscribe(bus, recorder, Requests(), trace_calls=bool(params.get("trace_calls")))
        return recorder

    def submit_store_task(self, *args: Any, **named: Any) -> Any:
        """Store objects, and note it."""
        submit = monotonic_ns()
        task = self.inner.submit_store_task(*args, **named)
        try:
            self._stores[task] = _opened(submit, args, named)
        except Exception as error:
            self._guard.count("opened", error)
        return task

    def pop_completed_store_tasks(self) -> Any:
        """Return the ended stores, and record them."""
        done = self.inner.pop_completed_store_tasks()
        if done:
            self._guard(self._stored, done)
        return done

    def _stored(self, done: Mapping[Any, int]) -> None:
        complete = monotonic_ns()
        for task, result in done.items():
            opened = self._stores.pop(task, None)
            if opened is not None:
                submit, keys, sizes = opened
                errors = self._outcome(int(result), submit, keys, sizes)
                self._record(WRITE, self._tier, PREFILL, submit, complete, keys, sizes, errors)

    def _outcome(self, result: int, submit: int, keys: list[Any], sizes: list[int]) -> Any:
        """Return the outcome of a store: LMCache tells one per task, the bytes written or -1."""
        if result < 0:
            return EIO
        if result == sum(sizes):
            return 0
        return Skipped(self._told.stored, submit, keys, result)

    def submit_lookup_and_lock_task(self, *args: Any, **named: Any) -> Any:
        """Look keys up, and note it."""
        submit = monotonic_ns()
        task = self.inner.submit_lookup_and_lock_task(*args, **named)
        try:
            self._lookups[task] = submit, _keys(args, named), 0
        except Exception as error:
            self._guard.count("opened", error)
        return task

    def query_lookup_and_lock_result(self, task: Any) -> Any:
        """Return a look-up's hits if it has ended, and record it."""
        hits = self.inner.query_lookup_and_lock_result(task)
        if hits is not None:
            try:
                self._ended(self._lookups, task, LOOKUP, Bits(hits, ENOENT))
            except Exception as error:
                self._guard.count("ended", error)
        return hits

    def submit_load_task(self, *args: Any, **named: Any) -> Any:
        """Load objects, and note it."""
        submit = monotonic_ns()
        task = self.inner.submit_load_task(*args, **named)
        try:
            self._loads[task] = _opened(submit, args, named)
        except Exception as error:
            self._guard.count("opened", error)
        return task

    def query_load_result(self, task: Any) -> Any:
        """Return which objects were loaded if the task has ended, and record it."""
        loaded = self.inner.query_load_result(task)
        if loaded is not None:
            try:
                self._ended(self._loads, task, READ, Bits(loaded, EIO))
            except Exception as error:
                self._guard.count("ended", error)
        return loaded

    def _ended(self, opened: dict[Any, Any], task: Any, op: int, errors: Any) -> None:
        complete = monotonic_ns()
        begun = opened.pop(task, None)
        if begun is not None:
            submit, keys, sizes = begun
            self._record(op, self._tier, DECODE, submit, complete, keys, sizes, errors)

    def delete(self, keys: Any, *args: Any, **named: Any) -> Any:
        """Delete objects, and record which there were."""
        submit = monotonic_ns()
        result = self.inner.delete(keys, *args, **named)
        self._guard(self._deleted, submit, keys)
        return result

    def _deleted(self, submit: int, keys: Any) -> None:
        keys = list(keys)
        errors = Deleted(self._told.deleted, submit, keys)
        self._record(DELETE, self._tier, EVICT, submit, monotonic_ns(), keys, 0, errors)

    def report_status(self) -> Any:
        """Return the inner adapter's status, with what was recorded."""
        status = self.inner.report_status()
        return self._guard(self._with_counts, status) or status

    def _with_counts(self, status: Mapping[str, Any]) -> dict[str, Any]:
        recorder = self._recorder
        return {**status, "capture": {"rows": recorder.rows, "dropped": recorder.dropped}}

    def close(self) -> None:
        """Close the inner adapter; what is in flight then is recorded as canceled."""
        end = monotonic_ns()
        try:
            self.inner.close()
        finally:
            self._guard(self._cancel, end)
            self._guard(self._release)

    def _cancel(self, end: int) -> None:
        kinds: Any = (
            (self._stores, WRITE, PREFILL),
            (self._lookups, LOOKUP, DECODE),
            (self._loads, READ, DECODE),
        )
        for opened, op, phase in kinds:
            for submit, keys, sizes in list(opened.values()):
                self._record(op, self._tier, phase, submit, end, keys, sizes, ECANCELED)
            opened.clear()

    def __getattr__(self, name: str) -> Any:
        """Return what the inner adapter has beyond the interface."""
        if name == "inner":  # not made yet
            raise AttributeError(name)
        return getattr(self.inner, name)


def _opened(submit: int, args: Any, named: Any) -> tuple[int, list[Any], list[int]]:
    """Return a store or load that was submitted: when, its keys and their sizes."""
    objects = args[1] if len(args) > 1 else named["objects"]
    return submit, _keys(args, named), [one.get_size() for one in objects]


def _keys(args: Any, named: Any) -> list[Any]:
    """Return the keys of a call, copied: the engine may change its list."""
    return list(args[0] if args else named["keys"])


def _inner(params: Mapping[str, Any]) -> tuple[str, Any]:
    """Return the inner adapter's type and configuration."""
    inner = params.get("inner")
    if not isinstance(inner, dict) or not isinstance(inner.get("type"), str):
        raise CaptureError(
            "parameter 'inner' is missing: the configuration of the L2 adapter to record, "
            'as in {"type": "fs", "base_path": "DIR"}'
        )
    misplaced = [name for name in _OUTER if name in inner]
    if misplaced:
        raise CaptureError(
            f'{", ".join(misplaced)} has no effect in \'inner\': put it beside "type": "plugin"'
        )
    config = get_l2_adapter_config_class(inner["type"]).from_dict(inner)
    parse: Callable[[Any], Any] | None = getattr(L2AdapterConfigBase, "_parse_persist_config", None)
    if parse is not None:
        config.persist_config = parse(inner)
    return inner["type"], config
