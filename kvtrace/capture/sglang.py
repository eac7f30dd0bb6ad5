"""Record SGLang's hierarchical cache around any of its storage back ends, by configuration.

    --hicache-storage-backend dynamic --hicache-storage-backend-extra-config
        '{"backend_name": "kvtrace", "module_path": "kvtrace.capture.sglang",
          "class_name": "RecordingHiCache", "inner": "file", "capture": {"out": DIR}, ...}'

The rest of the extra configuration is the inner back end's. Imported by SGLang only. Source:
sglang 0.5.23, `srt/mem_cache/storage/backend_factory.py`, read on 2026-11-30.
"""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

import sglang

from kvtrace.capture.versions import check

ENGINE, VERSION = "sglang", sglang.__version__
check("SGLang", VERSION, first=(0, 5, 23), tested="0.5.23")

from sglang.srt.mem_cache.hicache_storage import HiCacheStorage  # noqa: E402
from sglang.srt.mem_cache.storage.backend_factory import StorageBackendFactory  # noqa: E402

from kvtrace.capture.errors import CaptureError  # noqa: E402
from kvtrace.capture.guard import release_once  # noqa: E402
from kvtrace.capture.identity import Names  # noqa: E402
from kvtrace.capture.proxy import forwarding, hooked, observed  # noqa: E402
from kvtrace.capture.recorder import shared  # noqa: E402
from kvtrace.capture.settings import settings_of, tier_of  # noqa: E402
from kvtrace.capture.sglang_rows import HiCacheWatch, block_bytes  # noqa: E402
from kvtrace.capture.skipped import Files  # noqa: E402
from kvtrace.trace.schema import Tier  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

OURS = ("backend_name", "module_path", "class_name", "interface_v1", "inner", "capture")
LOCAL = frozenset({"file", "sim", "shm", "nixl", "hf3fs"})
"""Back ends whose data is taken for this host's own; those of all others are objects elsewhere."""


@forwarding(HiCacheStorage)
class RecordingHiCache(HiCacheStorage):  # type: ignore[misc]
    """A storage back end that records around another one."""

    def __init__(self, storage_config: Any, kwargs: Mapping[str, Any], *args: Any) -> None:
        """Begin to record. The inner back end is made when the host's pool is known.

        Raises CaptureError: wrong parameters, or another dynamic back end inside.
        """
        extra = dict(storage_config.extra_config or {})
        self.backend, capture = extra.get("inner"), extra.get("capture")
        if not isinstance(self.backend, str) or self.backend == "dynamic":
            raise CaptureError('"inner" is missing: the name of the back end to record, as "file"')
        if not isinstance(capture, dict):
            raise CaptureError('"capture" is missing beside "inner": {"out": DIR}')
        tier = tier_of(capture, Tier.NVME if self.backend in LOCAL else Tier.OBJECT)
        self._kwargs = kwargs
        self._config = dataclasses.replace(
            storage_config,
            extra_config={name: value for name, value in extra.items() if name not in OURS},
        )
        settings = settings_of({k: v for k, v in capture.items() if k != "tier"})
        shard = shard_of(storage_config)
        self.recorder = shared(
            settings, ENGINE, VERSION,
            names=Names(key_bytes=lambda key: key.encode() + shard, block_bytes=block_bytes),
            header=header_of(self.backend, storage_config),
        )  # fmt: skip
        self.guard = self.recorder.guard
        self.release = release_once(self.recorder)
        self.watch = HiCacheWatch(self.recorder.task, tier, storage_config.tp_rank)

    def __getattr__(self, name: str) -> Any:
        if name in ("inner", "guard", "watch"):  # not made yet
            raise AttributeError(name)
        return getattr(self.inner, name)

    def register_mem_pool_host(self, mem_pool_host: Any, *args: Any, **kwargs: Any) -> Any:
        """Make the inner back end, which may need the pool, and give it the pool."""
        if "inner" not in vars(self):
            self.inner = StorageBackendFactory.create_backend(
                self.backend, self._config, mem_pool_host, **self._kwargs
            )
            if self.backend == "file":
                self.guard(self._watch_files)
            elif self.backend == "mooncake":
                self.guard(self._watch_parts)
        result = self.inner.register_mem_pool_host(mem_pool_host, *args, **kwargs)
        self.guard(self.watch.pool_registered, 0, result, mem_pool_host)
        return result

    def _watch_files(self) -> None:
        """Look at files to tell a store from a skip, and let evictions be seen."""
        inner = self.inner
        self.watch.files = Files(
            lambda key: os.path.join(inner.file_path, inner._get_suffixed_key(key) + ".bin")  # noqa: PTH118
        )
        evictor = inner._evictor
        evictor._on_evict = observed(evictor._on_evict or _nothing, self.guard, self._evicted)

    def _watch_parts(self) -> None:
        """Let a store tell the pages it skips: it asks for them itself, and calls them stored."""
        inner = self.inner
        inner._batch_exist = observed(inner._batch_exist, self.guard, self.watch.parts_existed)

    def _evicted(self, start_ns: int, _result: Any, name: str) -> None:
        for suffix in (self.inner.tp_config_suffix, self.inner.config_suffix):
            if name.endswith(suffix):
                self.watch.evicted(start_ns, name.removesuffix(suffix))
                return

    register_mem_host_pool_v2 = hooked("register_mem_host_pool_v2", "further_pool_registered")
    exists = hooked("exists", "existed")
    batch_exists = hooked("batch_exists", "batch_existed")
    batch_exists_v2 = hooked("batch_exists_v2", "batch_existed_v2")
    get = hooked("get", "got")
    batch_get = hooked("batch_get", "batch_got")
    batch_get_v1 = hooked("batch_get_v1", "batch_got_v1")
    batch_get_v2 = hooked("batch_get_v2", "batch_got_v2")
    set = hooked("set", "was_set")
    batch_set = hooked("batch_set", "batch_was_set")
    batch_set_v1 = hooked("batch_set_v1", "batch_was_set_v1")
    batch_set_v2 = hooked("batch_set_v2", "batch_was_set_v2")

    def close(self, *args: Any, **kwargs: Any) -> Any:
        """Close the inner back end, if it can be closed, and end the recording."""
        try:
            close: Callable[..., Any] = getattr(vars(self).get("inner"), "close", _nothing)
            return close(*args, **kwargs)
        finally:
            self.guard(self.release)


def _nothing(*_: Any) -> None:
    return


def shard_of(config: Any) -> bytes:
    """Return what tells a rank's pages from others of one hash.

    The latent state of MLA is equal in all tensor-parallel ranks, and stored once.
    """
    ranks = [(config.pp_rank, config.pp_size), (config.attn_cp_rank, config.attn_cp_size)]
    if not config.is_mla_model:
        ranks.append((config.tp_rank, config.tp_size))
    return repr(ranks).encode()


def header_of(backend: str, config: Any) -> dict[str, Any]:
    """Return what a file's header says of this adapter."""
    hidden = ["gpu tier", "cpu tier", "request ids"]
    if backend != "file":
        hidden.append("evictions")
    if backend not in ("file", "mooncake"):
        hidden.append("stores that were skipped")
    return {
        "complete_is": {"nvme": "return of the call", "object": "return of the call"},
        "not_visible": hidden,
        "adapter": {
            "inner": backend, "tp_rank": config.tp_rank, "tp_size": config.tp_size,
            "pp_rank": config.pp_rank, "mla": config.is_mla_model,
        },
    }  # fmt: skip
