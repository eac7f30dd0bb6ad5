"""Rows of SGLang's hierarchical cache: what the calls of a storage back end amount to.

Nothing of SGLang is imported. The calls come from its prefetch, I/O and backup threads. No call
tells the request. Source: sglang 0.5.23, `srt/mem_cache/hicache_storage.py` and
`srt/managers/cache_controller.py`, read on 2026-11-30.
"""

from __future__ import annotations

import errno
from threading import get_ident
from typing import TYPE_CHECKING, Any

from kvtrace.capture.moment import monotonic_ns
from kvtrace.capture.words import DECODE, DELETE, EVICT, LOOKUP, PREFILL, READ, WRITE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvtrace.capture.skipped import Files

    Record = Callable[..., None]

HASH_DIGITS = 16
PHASES = {WRITE: PREFILL, DELETE: EVICT}


def block_bytes(key: str) -> bytes:
    """Return the 8 bytes of a page's hash that KV events publish, of a key that begins with it."""
    try:
        return bytes.fromhex(key[:HASH_DIGITS])
    except ValueError:
        return key.encode()


def tensor_bytes(tensor: Any) -> int:
    """Return a tensor's bytes, 0 without one."""
    return 0 if tensor is None else int(tensor.numel() * tensor.element_size())


def _missed(results: Sequence[Any]) -> list[int]:
    return [0 if result else errno.ENOENT for result in results]


class HiCacheWatch:
    """Rows of a storage back end of one rank.

    `files`: those of a back end that skips what is on disk and reports it as stored.
    """

    def __init__(self, record: Record, tier: int, rank: int, files: Files | None = None) -> None:
        self._record, self._tier, self._rank = record, int(tier), rank
        self.files = files
        self._page_bytes = 0
        self._pools: dict[str, int] = {}
        self._parts: dict[int, list[int]] = {}

    def pool_registered(self, _start_ns: int, _result: Any, pool: Any, *_: Any) -> None:
        """Take the host's pool: its pages are what is stored."""
        self._page_bytes = tensor_bytes(pool.get_dummy_flat_data_page())

    def further_pool_registered(
        self, _start_ns: int, _result: Any, host_pool: Any, host_pool_name: Any, *_: Any
    ) -> None:
        """Take a pool of another kind of state."""
        self._pools[str(host_pool_name)] = tensor_bytes(host_pool.get_dummy_flat_data_page())

    def _row(self, op: int, start_ns: int, keys: Sequence[str], sizes: Any, errors: Any) -> None:
        phase = PHASES.get(op, DECODE)
        keys, end_ns = list(keys), monotonic_ns()
        if keys:
            self._record(
                op, self._tier, phase, start_ns, end_ns, keys, sizes, errors, None, self._rank
            )

    def existed(self, start_ns: int, result: Any, key: str, *_: Any) -> None:
        """Take an answer of `exists`."""
        self._row(LOOKUP, start_ns, [key], 0, 0 if result else errno.ENOENT)

    def batch_existed(
        self, start_ns: int, count: int, keys: Sequence[str], *_: Any, **__: Any
    ) -> None:
        """Take an answer of `batch_exists`: the first `count` exist, the next one doesn't."""
        self._prefix(start_ns, keys, count)

    def batch_existed_v2(
        self, start_ns: int, result: Any, keys: Sequence[str], *_: Any, **__: Any
    ) -> None:
        """Take an answer of `batch_exists_v2`, whose pages all pools have."""
        self._prefix(start_ns, keys, result.kv_hit_pages)

    def _prefix(self, start_ns: int, keys: Sequence[str], count: int) -> None:
        asked = keys[: count + 1]  # what is behind the first miss has no answer
        self._row(LOOKUP, start_ns, asked, 0, [0] * count + [errno.ENOENT] * (len(asked) - count))

    def got(
        self, start_ns: int, result: Any, key: str, target_location: Any = None, *_: Any, **__: Any
    ) -> None:
        """Take a result of `get`."""
        self._row(READ, start_ns, [key], self._size(target_location), _missed([result is not None]))

    def batch_got(
        self, start_ns: int, result: Any, keys: Sequence[str], target_locations: Any = None,
        *_: Any, **__: Any,
    ) -> None:  # fmt: skip
        """Take a result of `batch_get`: a tensor or None per key, or how many were read."""
        if isinstance(result, list):
            errors = _missed([one is not None for one in result])
        else:
            errors = _missed([index < (result or 0) for index in range(len(keys))])
        self._row(READ, start_ns, keys, self._sizes(target_locations, keys), errors)

    def batch_got_v1(
        self, start_ns: int, results: Sequence[bool], keys: Sequence[str], *_: Any, **__: Any
    ) -> None:
        """Take the results of `batch_get_v1`."""
        self._row(READ, start_ns, keys, self._page_bytes, _missed(results))

    def was_set(
        self, start_ns: int, result: Any, key: str, value: Any = None, *_: Any, **__: Any
    ) -> None:
        """Take a result of `set`."""
        self._row(WRITE, start_ns, [key], self._size(value), self._stored(start_ns, [key], result))

    def batch_was_set(
        self, start_ns: int, result: Any, keys: Sequence[str], values: Any = None,
        *_: Any, **__: Any,
    ) -> None:  # fmt: skip
        """Take a result of `batch_set`: whether all were stored."""
        errors = self._stored(start_ns, list(keys), result)
        self._row(WRITE, start_ns, keys, self._sizes(values, keys), errors)

    def batch_was_set_v1(
        self, start_ns: int, results: Sequence[bool], keys: Sequence[str], *_: Any, **__: Any
    ) -> None:
        """Take the results of `batch_set_v1`."""
        parts = self._parts.pop(get_ident(), [])
        errors = [0 if result else errno.EIO for result in results]
        if len(parts) == len(keys) * (each := len(parts) // max(1, len(keys))) > 0:
            for page, result in enumerate(results):
                if result and all(part == 1 for part in parts[page * each : (page + 1) * each]):
                    errors[page] = errno.EEXIST
        self._row(WRITE, start_ns, keys, self._page_bytes, errors)

    def parts_existed(self, _start_ns: int, results: Sequence[int], *_: Any, **__: Any) -> None:
        """Take an answer of Mooncake's to its back end, which skips what exists in a store."""
        self._parts[get_ident()] = list(results)

    def batch_got_v2(
        self, start_ns: int, results: Any, transfers: Sequence[Any], *_: Any, **__: Any
    ) -> None:
        """Take the results of `batch_get_v2`, per pool."""
        for transfer in transfers:
            keys, size = self._of_pool(transfer)
            self._row(READ, start_ns, keys, size, _missed(results[transfer.name]))

    def batch_was_set_v2(
        self, start_ns: int, results: Any, transfers: Sequence[Any], *_: Any, **__: Any
    ) -> None:
        """Take the results of `batch_set_v2`, per pool."""
        for transfer in transfers:
            keys, size = self._of_pool(transfer)
            good = results[transfer.name]
            errors: Any = [0 if result else errno.EIO for result in good]
            if self.files is not None:
                errors = self.files.stored(keys, start_ns, 0 if all(good) else errno.EIO)
            self._row(WRITE, start_ns, keys, size, errors)

    def _of_pool(self, transfer: Any) -> tuple[list[str], int]:
        """Return the keys under which a pool's pages are stored, and a page's bytes."""
        name, keys = str(transfer.name), transfer.keys or []
        if name == "kv":
            return list(keys), self._pools.get(name, self._page_bytes)
        return [f"{key}.{name}" for key in keys], self._pools.get(name, 0)

    def _stored(self, start_ns: int, keys: list[str], result: Any) -> Any:
        """Return the outcomes of a store of which one result is known."""
        code = 0 if result else errno.EIO
        return code if self.files is None else self.files.stored(keys, start_ns, code)

    def _size(self, tensor: Any) -> int:
        return tensor_bytes(tensor) or self._page_bytes

    def _sizes(self, tensors: Any, keys: Sequence[str]) -> Any:
        if tensors is None or len(tensors) != len(keys):
            return self._page_bytes
        return [self._size(tensor) for tensor in tensors]

    def evicted(self, start_ns: int, key: str) -> None:
        """Take it that a back end deleted a page to make space."""
        if self.files is not None:
            self.files.deleted(key)
        self._row(DELETE, start_ns, [key], self._page_bytes, 0)
