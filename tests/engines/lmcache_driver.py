"""Drive LMCache's storage manager in its own process: runs in build/engines/lmcache.

Reads requests (a JSON list of block ids per line), asks for each one's prefix, reads what is hit,
writes the rest, and prints one line of JSON with what LMCache itself counts. Options that it
doesn't know are LMCache's.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lmcache.v1.distributed.api import (
    GroupedObjectKeys,
    MemoryLayoutDesc,
    ObjectKey,
    PrefetchLockMode,
    PrefetchTaskSpec,
)
from lmcache.v1.distributed.config import add_storage_manager_args, parse_args_to_config
from lmcache.v1.distributed.storage_manager import StorageManager
from lmcache.v1.mp_observability.config import (
    add_observability_args,
    init_observability,
    parse_args_to_observability_config,
)

RANK = ObjectKey.ComputeKVRank(1, 0, 1, 0)
MODEL = "meta-llama/Llama-3.1-8B-Instruct"


def key_of(block: int) -> Any:
    return ObjectKey(hashlib.blake2b(str(block).encode(), digest_size=32).digest(), MODEL, RANK)


def stamp(memory: Any) -> memoryview:
    return memoryview(memory.byte_array).cast("B")[:32]


class Driver:
    def __init__(self, manager: Any, columns: int) -> None:
        self.manager = manager
        shape = torch.Size([2, 4, 16, columns * 4])
        self.layout = MemoryLayoutDesc(shapes=[shape], dtypes=[torch.bfloat16])
        self.counts = {"asked": 0, "hits": 0, "written": 0, "bad": 0, "l1": 0, "l2": 0}

    def request(self, number: int, blocks: list[int]) -> None:
        keys = [key_of(block) for block in blocks]
        hits = self.prefetch(number, keys)
        self.counts["asked"] += len(keys)
        self.counts["hits"] += hits
        if keys[hits:]:
            reserved = self.manager.reserve_write(keys[hits:], self.layout)
            for key, memory in reserved.items():
                stamp(memory)[:] = key.chunk_hash
            self.manager.finish_write(list(reserved))
            self.counts["written"] += len(reserved)

    def prefetch(self, number: int, keys: list[Any]) -> int:
        spec = PrefetchTaskSpec(
            key_groups=[GroupedObjectKeys(keys, 0, self.layout)],
            num_kv_readers=1,
            fetching_policy="prefix",
            lock_mode=PrefetchLockMode.LOCK,
        )
        handle = self.manager.submit_prefetch_task(spec, external_request_id=f"request-{number}")
        while (status := self.manager.query_prefetch_status(handle)) is None:
            time.sleep(0.0005)
        hits: int = status.hit_cells[0].count_leading_ones()
        self.counts["l1"] += status.l1_hit_count
        self.counts["l2"] += status.l2_hit_count
        if hits:
            with self.manager.read_prefetched_results(
                keys[:hits], l1_owners=status.l1_owners
            ) as memories:
                pairs = zip(keys, memories or (), strict=False)
                self.counts["bad"] += sum(bytes(stamp(m)) != key.chunk_hash for key, m in pairs)
            self.manager.finish_read_prefetched(keys[:hits], l1_owners=status.l1_owners)
        return hits

    def wait_for_room(self, ratio: float) -> None:
        """Wait until L1 has room, as a slower engine would: it is evicted once a second only."""
        while True:
            used, capacity = self.manager.get_l1_usage()
            if used < ratio * capacity:
                return
            time.sleep(0.02)

    def settle(self) -> None:
        """Wait until nothing is written any more, nor evicted: that is looked at once a second."""
        before, equal = None, 0
        while equal < 5:
            time.sleep(0.5)
            now = self.usage()
            equal = equal + 1 if now == before else 0
            before = now

    def usage(self) -> dict[str, Any]:
        l2 = self.manager.get_l2_usages_by_type()
        return {
            "l1_usage": self.manager.get_l1_usage(),
            "l2_usage": [one.total_bytes_used for usages in l2.values() for one in usages],
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=Path, required=True)
    parser.add_argument("--columns", type=int, default=32)
    parser.add_argument("--room", type=float, help="wait until L1 is filled less than this ratio")
    parser.add_argument("--before", help="module whose `before()` runs first")
    add_storage_manager_args(parser)
    add_observability_args(parser)
    args = parser.parse_args()
    if args.before:
        sys.path.insert(0, str(Path(args.before).parent))
        importlib.import_module(Path(args.before).stem).before()
    bus = init_observability(
        parse_args_to_observability_config(args), start_prometheus_http_server=False
    )
    manager = StorageManager(parse_args_to_config(args))
    driver = Driver(manager, args.columns)
    lines = args.requests.read_text().splitlines()
    began, cpu = time.monotonic(), time.process_time()
    for number, line in enumerate(lines):
        driver.request(number, json.loads(line))
        if args.room:
            driver.wait_for_room(args.room)
    seconds = time.monotonic() - began
    driver.settle()
    cpu = time.process_time() - cpu
    counts = driver.counts | driver.usage() | {"bus_dropped": bus.dropped_events_count()}
    bus.stop()  # in the order of `lmcache server`
    status = {}
    with contextlib.suppress(AttributeError):
        status = manager.report_status()
    manager.close()
    print(json.dumps({**counts, "status": str(status)[:2000], "seconds": seconds, "cpu": cpu}))


if __name__ == "__main__":
    main()
