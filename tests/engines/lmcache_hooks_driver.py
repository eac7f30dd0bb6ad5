"""Run one script of calls on a bare L2 adapter and on recorded ones, each with a hook that raises.

Runs in build/engines/lmcache; prints one line of JSON: of each hook whether the engine's results
are those of the bare adapter, and how often the fault was counted.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from lmcache.cli.commands.bench.l2_adapter_bench.data import make_memory_objects, make_object_keys
from lmcache.v1.distributed.api import L1BackendType
from lmcache.v1.distributed.internal_api import L1ObjectMeta
from lmcache.v1.distributed.l2_adapters import create_l2_adapter
from lmcache.v1.distributed.l2_adapters.config import get_l2_adapter_config_class
from lmcache.v1.mp_observability.event import Event, EventType
from lmcache.v1.mp_observability.event_bus import EventBusConfig, init_event_bus

from kvtrace.capture import lmcache, lmcache_events
from kvtrace.capture.recorder import Recorder
from kvtrace.capture.table import Table

HOOKS: dict[str, tuple[Any, str]] = {
    name: (owner, name)
    for owner, names in (
        (lmcache, ["_opened", "_keys"]),
        (lmcache.RecordingL2, ["_stored", "_ended", "_deleted", "_with_counts", "_cancel"]),
        (lmcache.Listener, ["_note_stored", "_note_deleted"]),
        (lmcache_events.Events, ["_write_reserved", "_written", "_promoted", "_read_reserved",
                                 "_read", "_evicted", "_asked", "_called"]),
        (lmcache_events.Requests, ["of"]),
        (Recorder, ["task", "defer", "release"]),
        (Table, ["records"]),
    )
    for name in names
}  # fmt: skip
HOOKS |= {f"{one.__name__}.expand": (one, "expand")
          for one in (lmcache.Bits, lmcache.Skipped, lmcache.Deleted)}  # fmt: skip


def raising(name: str) -> Any:
    def fault(*_: Any, **__: Any) -> Any:
        raise RuntimeError("injected")

    fault.__name__ = name
    return fault


def adapter(inner: dict[str, Any], out: Path | None) -> Any:
    if out is None:
        return create_l2_adapter(get_l2_adapter_config_class(inner["type"]).from_dict(inner))
    return lmcache.RecordingL2({"inner": inner, "out": str(out), "flush_s": 0.01})


def until(ask: Any) -> Any:
    while not (answer := ask()):
        time.sleep(0.002)
    return answer


def script(one: Any, bus: Any) -> list[Any]:
    """Return everything that an engine sees of some stores, look-ups, loads and a deletion."""
    keys, size = make_object_keys(10), 4096
    memory = make_memory_objects(torch.zeros(10 * size, dtype=torch.uint8), 10, size, 0, 1)
    seen: list[Any] = []
    for some in (slice(0, 6), slice(3, 8)):
        task = one.submit_store_task(keys[some], memory[some])
        seen.append(int(until(one.pop_completed_store_tasks)[task]))
    for _ in range(2):
        task = one.submit_lookup_and_lock_task(keys, {})
        hits = until(lambda task=task: one.query_lookup_and_lock_result(task))
        seen.append(hits.get_indices_list())
        one.submit_unlock(keys)
        fresh = torch.zeros(10 * size, dtype=torch.uint8)
        task = one.submit_load_task(keys[:4], make_memory_objects(fresh, 4, size, 0, 99))
        seen.append(until(lambda task=task: one.query_load_result(task)).get_indices_list())
        seen.append(fresh.reshape(10, size)[:, 0].tolist())
        one.delete(keys[2:3])
    publish(bus, keys)
    status = one.report_status()
    status.pop("capture", None)
    seen += [str(status), one.get_usage().total_bytes_used, one.supports_global_eviction]
    one.submit_lookup_and_lock_task(keys, {})
    one.close()
    return seen


def publish(bus: Any, keys: list[Any]) -> None:
    """Publish each event that is recorded, and wait until it was delivered."""
    meta = [L1ObjectMeta(5, L1BackendType.DRAM) for _ in keys]
    call = {"qualname": "submit_prefetch_task", "args": {"external_request_id": "r", "spec":
            mock.Mock(key_groups=[mock.Mock(keys=keys)])}}  # fmt: skip
    for kind, metadata in (
        (EventType.L1_WRITE_RESERVED, {"keys": keys}),
        (EventType.L1_WRITE_FINISHED, {"keys": keys, "meta": meta}),
        (EventType.L1_WRITE_FINISHED_AND_READ_RESERVED, {"keys": keys, "meta": meta}),
        (EventType.L1_READ_RESERVED, {"keys": keys}),
        (EventType.SM_READ_PREFETCHED_FINISHED, {"succeeded_keys": keys}),
        (EventType.L1_KEYS_EVICTED, {"keys": keys, "meta": meta}),
        (EventType.MP_LOOKUP, {"request_id": "r", "chunk_hashes": ["0x" + "00" * 16]}),
        (EventType.TRACE_CALL, call),
    ):
        bus.publish(Event(event_type=kind, metadata=metadata))
    until(lambda: bus.queue_depth() == 0)
    time.sleep(0.1)


def main() -> None:
    folder = Path(sys.argv[1])
    inner = {"type": "mock", "max_size_gb": 0.001, "mock_bandwidth_gb": 10}
    bus = init_event_bus(EventBusConfig(enabled=True))
    bus.start()
    bare, results = script(adapter(inner, None), bus), {}
    for hook, (owner, name) in {"none": (Recorder, "close"), **HOOKS}.items():
        bus = init_event_bus(EventBusConfig(enabled=True))
        bus.start()
        recorded = adapter(inner, folder / hook)
        fault = getattr(owner, name) if hook == "none" else raising(name)
        with mock.patch.object(owner, name, fault):
            recorded._record = recorded._recorder.task  # bound when it was made
            # So was what the bus calls.
            if owner is lmcache_events.Events:
                bus._subscribers.clear()
                recorded._recorder.events.register(bus)
            same = script(recorded, bus) == bare
        recorded._recorder.close()
        results[hook] = {"same": same, "faults": recorded._recorder.guard.errors,
                         "exceptions": bus.subscriber_exception_counts()}  # fmt: skip
        bus.stop()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
