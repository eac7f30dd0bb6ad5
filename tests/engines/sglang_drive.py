"""Serve requests by SGLang's own cache controller and storage back end, over a stand-in for a pool.

Runs in the engines' environment: `python sglang_drive.py JSON`, with `inner`, `extra` (its
configuration), and `capture`, `requests`, `faults` if wanted. The last line that it prints is
JSON: `loaded` pages per request, pages whose content was `wrong`, `page_bytes`, keys `held`.
"""

from __future__ import annotations

import json
import random
import sys
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING, Any

import sglang_stubs
from faults import inject

sglang_stubs.install()

import torch  # noqa: E402
from sglang.srt.managers.cache_controller import (  # noqa: E402
    HiCacheController,
    PrefetchOperation,
    StorageOperation,
)
from sglang.srt.mem_cache.hicache_storage import HiCacheStorageConfig  # noqa: E402
from sglang.srt.mem_cache.storage.backend_factory import StorageBackendFactory  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE_TOKENS, PAGE_BYTES, POOL_PAGES = 16, 32 << 10, 256
SYSTEM_PROMPTS, WORDS = 6, 1000


class Pool:
    """Pages in host memory, each begun with the hash of what it holds."""

    page_size = PAGE_TOKENS
    size_per_token = PAGE_BYTES // PAGE_TOKENS
    layout = "page_first"

    def __init__(self) -> None:
        self.pages = self.kv_buffer = torch.zeros(POOL_PAGES, PAGE_BYTES, dtype=torch.uint8)

    def get_ksize_per_token(self) -> int:
        return self.size_per_token // 2

    def get_page_buffer_meta(self, indices: torch.Tensor) -> tuple[list[int], list[int]]:
        """Return address and length of the halves of pages, keys and values."""
        half, starts = PAGE_BYTES // 2, []
        for index in indices[::PAGE_TOKENS].tolist():
            page = self.pages[index // PAGE_TOKENS].data_ptr()
            starts += [page, page + half]
        return starts, [half] * len(starts)

    def get_dummy_flat_data_page(self) -> torch.Tensor:
        return torch.zeros(PAGE_BYTES, dtype=torch.uint8)

    def get_data_page(self, index: Any, flat: bool = True) -> torch.Tensor:
        return self.pages[int(index) // PAGE_TOKENS]

    def set_from_flat_data_page(self, index: Any, page: torch.Tensor) -> None:
        self.pages[int(index) // PAGE_TOKENS] = page


def controller(plan: dict[str, Any], pool: Pool) -> HiCacheController:
    """Return SGLang's controller with a storage back end, as far as storage needs it."""
    backend, extra = plan["inner"], dict(plan["extra"])
    if "capture" in plan:
        extra |= {
            "backend_name": "kvtrace", "module_path": "kvtrace.capture.sglang",
            "class_name": "RecordingHiCache", "inner": backend, "capture": plan["capture"],
            "interface_v1": int(plan.get("zero_copy", False)),
        }  # fmt: skip
        backend = "dynamic"
    config = HiCacheStorageConfig(
        tp_rank=0, tp_size=1, pp_rank=0, pp_size=1, attn_cp_rank=0, attn_cp_size=1,
        is_mla_model=False, enable_storage_metrics=False, is_page_first_layout=False,
        model_name="owner/private-model", extra_config=extra,
    )  # fmt: skip
    made = HiCacheController.__new__(HiCacheController)
    made.page_size, made.storage_host_pool, made.storage_config = PAGE_TOKENS, pool, config
    made.storage_backend = StorageBackendFactory.create_backend(backend, config, pool)
    made.storage_backend.register_mem_pool_host(pool)
    made.storage_backend.on_host_pools_registered()
    made.page_get_func, made.page_set_func = made._generic_page_get, made._generic_page_set
    if plan.get("zero_copy"):
        made.page_get_func, made.page_set_func = made._page_get_zero_copy, made._page_set_zero_copy
    made.prefetch_sync_queue = Queue()
    return made


def prompts(number: int) -> list[list[int]]:
    """Return prompts of tokens, many of which begin alike."""
    rng = random.Random(1)
    system = [[rng.randrange(WORDS) for _ in range(512)] for _ in range(SYSTEM_PROMPTS)]
    return [
        rng.choice(system) + [rng.randrange(WORDS) for _ in range(rng.randrange(40, 600))]
        for _ in range(number)
    ]


def mark(page_hash: str) -> torch.Tensor:
    """Return what a page of a hash begins with."""
    return torch.tensor(list(bytes.fromhex(page_hash)), dtype=torch.uint8)


def serve(made: HiCacheController, pool: Pool, request: str, tokens: list[int]) -> tuple[int, int]:
    """Load what is stored of a prompt, store all of it; return pages loaded and wrong ones."""
    pages = len(tokens) // PAGE_TOKENS
    tokens = tokens[: pages * PAGE_TOKENS]
    operation = PrefetchOperation(request, tokens)
    operation.hash_value, _ = made._storage_hit_query(operation)
    indices = torch.arange(pages * PAGE_TOKENS)
    operation.host_indices = indices
    loaded = made._page_transfer(operation)
    hashes = operation.all_hash_values
    wrong = 0
    for page, page_hash in enumerate(hashes):
        expected = mark(page_hash)
        if page < loaded:
            wrong += not torch.equal(pool.pages[page][: len(expected)], expected)
        else:
            pool.pages[page][: len(expected)] = expected
    made._page_backup(StorageOperation(indices, tokens, hash_value=hashes))
    return loaded, wrong


@contextmanager
def mooncake(folder: str | None) -> Iterator[Callable[[], Any]]:
    """Run a master of Mooncake's store, if a folder is given; give a function of its counts."""
    if folder is None:
        yield lambda: None
        return
    import mooncake_drive

    mooncake_drive.loopback_up()
    server = mooncake_drive.master(Path(folder))
    try:
        mooncake_drive.client().close()  # the master answers
        yield mooncake_drive.counts
    finally:
        server.terminate()
        server.wait(10)


def main() -> None:
    plan = json.loads(sys.argv[1])
    if plan.get("faults"):
        from kvtrace.capture.sglang_rows import HiCacheWatch

        inject(HiCacheWatch)
    with mooncake(plan.get("mooncake")) as counts:
        run(plan, counts)


def run(plan: dict[str, Any], counts: Callable[[], Any]) -> None:
    pool = Pool()
    made = controller(plan, pool)
    served = [
        serve(made, pool, f"request-{number}", tokens)
        for number, tokens in enumerate(prompts(plan.get("requests", 60)))
    ]
    facts = {
        "loaded": [loaded for loaded, _ in served],
        "wrong": sum(wrong for _, wrong in served),
        "page_bytes": PAGE_BYTES,
        "held": len(getattr(made.storage_backend, "_keys", ())),
        "counts": counts(),
    }
    if hasattr(made.storage_backend, "close"):
        made.storage_backend.close()
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
