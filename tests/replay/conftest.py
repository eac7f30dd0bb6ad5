"""Engines, and what they read and write."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from replay.engine import native

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.fixture(params=[native.uring, native.threads], ids=lambda engine: engine.name)
def engine(request: pytest.FixtureRequest) -> native.NativeEngine:
    """Each engine, or a skip with the reason why it can't be used here."""
    chosen: native.NativeEngine = request.param
    reason = chosen.available()
    if reason is not None:
        pytest.skip(reason)
    return chosen


@pytest.fixture(scope="module")
def arena() -> NDArray[np.uint8]:
    """8 MiB of random payload."""
    memory, _kind = native.allocate(8 << 20)
    memory[:] = np.random.default_rng(1).integers(0, 256, memory.size, dtype=np.uint8)
    return memory


@pytest.fixture
def open_file(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Yield a function that makes a file of a size and opens it, past the page cache if it can."""
    opened: list[int] = []

    def make(size_bytes: int, flags: int = os.O_RDWR) -> int:
        path = tmp_path / f"target{len(opened)}"
        path.touch()
        os.truncate(path, size_bytes)
        try:
            opened.append(os.open(path, flags | os.O_DIRECT))
        except OSError:
            opened.append(os.open(path, flags))
        return opened[-1]

    yield make
    for fd in opened:
        os.close(fd)
