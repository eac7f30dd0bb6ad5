"""Rows of Mooncake's store: what a program's calls of a client amount to.

Nothing of Mooncake is imported. Source: mooncake-transfer-engine 0.3.13.post1, the signatures of
`MooncakeDistributedStore`; codes: kvcache-ai/Mooncake, `mooncake-store/include/types.h`, read on
2026-11-30.
"""

from __future__ import annotations

import errno
from collections import Counter
from typing import TYPE_CHECKING, Any

from kvtrace.capture.moment import monotonic_ns
from kvtrace.capture.words import DECODE, DELETE, EVICT, LOOKUP, OBJECT, PREFILL, READ, WRITE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Record = Callable[..., None]

CODES = {
    -704: errno.ENOENT,  # object not found
    -705: errno.EEXIST,  # object already exists
    -703: errno.EAGAIN,  # replica is not ready
    -706: errno.EBUSY,  # object has a lease
    -707: errno.ESTALE,  # the lease ended before the transfer
    -901: errno.ETIMEDOUT,  # RPC timeout
}
RANGES = {2: errno.ENOSPC, 3: errno.EPROTO, 4: errno.EINVAL, 6: errno.EINVAL, 9: errno.ECOMM}
"""By hundreds: no space, another version, a bad key, a bad parameter, no RPC; EIO for others."""
PHASES = {WRITE: PREFILL, DELETE: EVICT}


def error_of(code: int) -> int:
    """Return the errno of one of Mooncake's results; 0 or more is a success."""
    if code >= 0:
        return 0
    return CODES.get(code) or RANGES.get(-code // 100, errno.EIO)


def buffer_bytes(value: Any) -> int:
    """Return the length of a buffer or a tensor."""
    if hasattr(value, "element_size"):
        return int(value.numel() * value.element_size())
    return memoryview(value).nbytes


def _present(code: int) -> int:
    """Return the errno of an answer of `is_exist`: 1 is yes, 0 is no."""
    return errno.ENOENT if code == 0 else error_of(code)


class StoreWatch:
    """Rows of a client of the store. Times are those of the calls."""

    def __init__(self, record: Record, tier: int = OBJECT) -> None:
        self._record, self._tier = record, int(tier)
        self.unrecorded: Counter[str] = Counter()

    def _row(self, op: int, start_ns: int, keys: Sequence[str], sizes: Any, errors: Any) -> None:
        keys, end_ns = list(keys), monotonic_ns()
        if keys:
            phase = PHASES.get(op, DECODE)
            self._record(op, self._tier, phase, start_ns, end_ns, keys, sizes, errors)

    def put(self, start: int, code: int, key: str, value: Any, *_: Any, **__: Any) -> None:
        """Take `put`, `upsert` or `put_tensor`."""
        self._row(WRITE, start, [key], buffer_bytes(value), error_of(code))

    def put_parts(self, start: int, code: int, key: str, *parts: Any, **__: Any) -> None:
        """Take `put_parts`: one object of several buffers."""
        self._row(WRITE, start, [key], sum(map(buffer_bytes, parts)), error_of(code))

    def put_batch(
        self, start: int, code: int, keys: Sequence[str], values: Sequence[Any], *_: Any, **__: Any
    ) -> None:
        """Take `put_batch`: one result for all."""
        self._row(WRITE, start, keys, [buffer_bytes(one) for one in values], error_of(code))

    def put_from(
        self, start: int, code: int, key: str, _buffer: int, size: int, *_: Any, **__: Any
    ) -> None:
        """Take `put_from`."""
        self._row(WRITE, start, [key], size, error_of(code))

    def batch_put_from(
        self, start: int, codes: Sequence[int], keys: Sequence[str], _buffers: Any,
        sizes: Sequence[Any], *_: Any, **__: Any,
    ) -> None:  # fmt: skip
        """Take `batch_put_from`, or of several buffers per key."""
        self._row(WRITE, start, keys, _totals(sizes), [error_of(code) for code in codes])

    def get(self, start: int, value: Any, key: str, *_: Any, **__: Any) -> None:
        """Take `get` or `get_tensor`: nothing is what a miss returns."""
        self.get_batch(start, [value], [key])

    def get_batch(
        self, start: int, values: Sequence[Any], keys: Sequence[str], *_: Any, **__: Any
    ) -> None:
        """Take `get_batch`."""
        sizes = [0 if value is None else buffer_bytes(value) for value in values]
        self._row(READ, start, keys, sizes, [0 if size else errno.ENOENT for size in sizes])

    def get_buffer(self, start: int, handle: Any, key: str, *_: Any, **__: Any) -> None:
        """Take `get_buffer`."""
        self.batch_get_buffer(start, [handle], [key])

    def batch_get_buffer(
        self, start: int, handles: Sequence[Any], keys: Sequence[str], *_: Any, **__: Any
    ) -> None:
        """Take `batch_get_buffer`: a handle or None per key."""
        sizes = [0 if handle is None else handle.size() for handle in handles]
        errors = [errno.ENOENT if handle is None else 0 for handle in handles]
        self._row(READ, start, keys, sizes, errors)

    def get_into(
        self, start: int, code: int, key: str, _buffer: int, size: int, *_: Any, **__: Any
    ) -> None:
        """Take `get_into`: the bytes that came, or a code."""
        self.batch_get_into(start, [code], [key], None, [size])

    def batch_get_into(
        self, start: int, codes: Sequence[int], keys: Sequence[str], _buffers: Any,
        sizes: Sequence[Any], *_: Any, **__: Any,
    ) -> None:  # fmt: skip
        """Take `batch_get_into`, or into several buffers per key."""
        asked = _totals(sizes)
        moved = [size if code < 0 else code for code, size in zip(codes, asked, strict=True)]
        self._row(READ, start, keys, moved, [error_of(code) for code in codes])

    def is_exist(self, start: int, code: int, key: str, *_: Any, **__: Any) -> None:
        """Take `is_exist`."""
        self._row(LOOKUP, start, [key], 0, _present(code))

    def batch_is_exist(
        self, start: int, codes: Sequence[int], keys: Sequence[str], *_: Any, **__: Any
    ) -> None:
        """Take `batch_is_exist`."""
        self._row(LOOKUP, start, keys, 0, [_present(code) for code in codes])

    def remove(self, start: int, code: int, key: str, *_: Any, **__: Any) -> None:
        """Take `remove`."""
        self._row(DELETE, start, [key], 0, error_of(code))

    def batch_remove(
        self, start: int, codes: Sequence[int], keys: Sequence[str], *_: Any, **__: Any
    ) -> None:
        """Take `batch_remove`."""
        self._row(DELETE, start, keys, 0, [error_of(code) for code in codes])

    def passed(self, name: str) -> None:
        """Count a use of a method that moves or removes data and isn't recorded."""
        self.unrecorded[name] += 1


def _totals(sizes: Sequence[Any]) -> list[int]:
    """Return an object's bytes, of one size each or of those of its buffers."""
    return [sum(size) if isinstance(size, list | tuple) else size for size in sizes]


HOOKS = {
    "put": "put",
    "upsert": "put",
    "put_tensor": "put",
    "upsert_tensor": "put",
    "put_parts": "put_parts",
    "upsert_parts": "put_parts",
    "put_batch": "put_batch",
    "upsert_batch": "put_batch",
    "put_from": "put_from",
    "upsert_from": "put_from",
    "batch_put_from": "batch_put_from",
    "batch_upsert_from": "batch_put_from",
    "batch_put_from_multi_buffers": "batch_put_from",
    "get": "get",
    "get_tensor": "get",
    "get_batch": "get_batch",
    "get_buffer": "get_buffer",
    "batch_get_buffer": "batch_get_buffer",
    "get_into": "get_into",
    "batch_get_into": "batch_get_into",
    "batch_get_into_multi_buffers": "batch_get_into",
    "is_exist": "is_exist",
    "batch_is_exist": "batch_is_exist",
    "remove": "remove",
    "batch_remove": "batch_remove",
}
"""Methods of a client and what sees them."""
MOVING = ("put", "get", "batch_", "upsert", "pub_", "remove_", "save_", "load_")
"""How names of methods begin that move or remove data; those that aren't recorded are counted."""
STILL = frozenset({
    "get_hostname", "get_size", "get_replica_desc", "batch_get_replica_desc",
    "get_offload_rpc_read_count",
})  # fmt: skip
"""Those that only look that way."""
