"""Calls of Mooncake's store become rows."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from kvtrace.capture.mooncake_rows import StoreWatch, error_of
from kvtrace.trace.schema import Op, Phase, Tier


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (0, 0), (4096, 0), (-704, errno.ENOENT), (-705, errno.EEXIST), (-706, errno.EBUSY),
        (-200, errno.ENOSPC), (-400, errno.EINVAL), (-600, errno.EINVAL), (-901, errno.ETIMEDOUT),
        (-900, errno.ECOMM), (-800, errno.EIO), (-1, errno.EIO), (-1100, errno.EIO),
    ],
)  # fmt: skip
def test_codes_are_errnos(code: int, error: int) -> None:
    """What a store says is a number of its own; a trace has errnos."""
    assert error_of(code) == error


@pytest.fixture
def rows() -> list[tuple[Any, ...]]:
    return []


@pytest.fixture
def watch(rows: list[tuple[Any, ...]]) -> StoreWatch:
    def record(op: Op, tier: Tier, phase: Phase, start: int, end: int, *rest: Any) -> None:
        assert (tier, start < end) == (Tier.OBJECT, True)
        rows.append((op, phase, *rest))

    return StoreWatch(record)


class Handle:
    def size(self) -> int:
        return 7


def test_stores(watch: StoreWatch, rows: list[Any]) -> None:
    """Sizes are those of buffers, of their parts together, or as the caller gives them."""
    watch.put(1, 0, "a", bytearray(5), object())
    watch.put_parts(1, 0, "a", b"12", memoryview(b"345"), config=None)
    watch.put_batch(1, -200, ["a", "b"], [b"1", b"22"])
    watch.put_from(1, 0, "a", 0xF00, 9)
    watch.batch_put_from(1, [0, -704], ["a", "b"], [1, 2], [3, (4, 5)])
    assert rows == [
        (Op.WRITE, Phase.PREFILL, ["a"], 5, 0),
        (Op.WRITE, Phase.PREFILL, ["a"], 5, 0),
        (Op.WRITE, Phase.PREFILL, ["a", "b"], [1, 2], errno.ENOSPC),
        (Op.WRITE, Phase.PREFILL, ["a"], 9, 0),
        (Op.WRITE, Phase.PREFILL, ["a", "b"], [3, 9], [0, errno.ENOENT]),
    ]


def test_loads(watch: StoreWatch, rows: list[Any]) -> None:
    """A load that failed has the size that was asked for, where it is known."""
    watch.get(1, b"12", "a")
    watch.get_batch(1, [b"", b"1"], ["a", "b"])
    watch.get_buffer(1, None, "a")
    watch.batch_get_buffer(1, [Handle(), None], ["a", "b"])
    watch.get_into(1, -704, "a", 0xF00, 9)
    watch.batch_get_into(1, [8, -800], ["a", "b"], [1, 2], [[4, 4], [5, 5]])
    assert rows == [
        (Op.READ, Phase.DECODE, ["a"], [2], [0]),
        (Op.READ, Phase.DECODE, ["a", "b"], [0, 1], [errno.ENOENT, 0]),
        (Op.READ, Phase.DECODE, ["a"], [0], [errno.ENOENT]),
        (Op.READ, Phase.DECODE, ["a", "b"], [7, 0], [0, errno.ENOENT]),
        (Op.READ, Phase.DECODE, ["a"], [9], [errno.ENOENT]),
        (Op.READ, Phase.DECODE, ["a", "b"], [8, 10], [0, errno.EIO]),
    ]


def test_look_ups_and_removals(watch: StoreWatch, rows: list[Any]) -> None:
    """1 exists, 0 doesn't, less is an error."""
    watch.is_exist(1, 1, "a")
    watch.batch_is_exist(1, [1, 0, -900], ["a", "b", "c"])
    watch.remove(1, 0, "a", True)
    watch.batch_remove(1, [0, -706], ["a", "b"], force=True)
    watch.batch_remove(1, [], [])
    assert rows == [
        (Op.LOOKUP, Phase.DECODE, ["a"], 0, 0),
        (Op.LOOKUP, Phase.DECODE, ["a", "b", "c"], 0, [0, errno.ENOENT, errno.ECOMM]),
        (Op.DELETE, Phase.EVICT, ["a"], 0, 0),
        (Op.DELETE, Phase.EVICT, ["a", "b"], 0, [0, errno.EBUSY]),
    ]


def test_other_calls_are_counted(watch: StoreWatch) -> None:
    """What moves data and isn't recorded is told by its name."""
    watch.passed("remove_all")
    watch.passed("remove_all")
    assert watch.unrecorded == {"remove_all": 2}
