"""LMCache's recording adapter around one that does nothing: its own time per task and per key.

Runs in build/engines/lmcache, started by benchmarks/capture.py; prints a line of JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

from lmcache.lmcache_native import Bitmap
from lmcache.v1.distributed.api import ObjectKey

from kvtrace.capture import lmcache

REPEATS, TASKS = 15, 400


class Nothing:
    """An inner adapter whose calls cost nothing."""

    def __init__(self) -> None:
        self.task, self.done = 0, {}

    def register_listener(self, listener: Any) -> None:
        pass

    def close(self) -> None:
        pass

    def submit(self, keys: Any, _: Any) -> int:
        self.task += 1
        return self.task

    submit_load_task = submit_store_task = submit_lookup_and_lock_task = submit

    def query(self, task: int) -> Any:
        return self.done

    query_load_result = query_lookup_and_lock_result = query


class Memory:
    def get_size(self) -> int:
        return 32768


def once(one: Any, kind: str, keys: list[Any], memory: list[Any]) -> float:
    """Return the us of a task: its submission and the query of its result."""
    submit = getattr(one, f"submit_{kind}_task")
    query = getattr(one, f"query_{kind}_result")
    began = time.perf_counter()
    for _ in range(TASKS):
        query(submit(keys, memory))
    return (time.perf_counter() - began) / TASKS * 1e6


def main() -> None:
    lmcache.create_l2_adapter = lambda *_: Nothing()
    params = {"inner": {"type": "mock", "max_size_gb": 1, "mock_bandwidth_gb": 1},
              "out": sys.argv[1], "bus": False}  # fmt: skip
    recorded, result = lmcache.RecordingL2(params), {}
    for kind in ("load", "lookup_and_lock"):
        for count in (1, 100):
            keys = [ObjectKey(bytes([n] * 32), "model", 0) for n in range(count)]
            bare = Nothing()
            bare.done = recorded.inner_adapter.done = Bitmap(count)
            memory = [Memory()] * count
            own = []
            for _ in range(REPEATS):
                own.append(once(recorded, kind, keys, memory) - once(bare, kind, keys, memory))
                while recorded._recorder._queue:
                    time.sleep(0.05)
            result[f"{kind} {count}"] = statistics.median(own)
    recorded.close()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
