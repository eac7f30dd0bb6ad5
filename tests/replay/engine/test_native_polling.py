"""Polling that a lane tries out: what pays is kept, and everything is done either way."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import pytest

from replay.engine import native
from replay.engine.native.library import load
from replay.engine.native.testing import make_ops
from replay.ops.contract import LoopOptions, Mode, Verify, run_whole
from tests.support.native_kit import simulated_lane

if TYPE_CHECKING:
    import numpy as np

if native.threads.available() is not None:
    pytest.skip(str(native.threads.available()), allow_module_level=True)

MS = 1_000_000
S = 1000 * MS


class Polling(ctypes.Structure):
    """`struct kv_polling` of abi.h."""

    _fields_ = (
        ("until_ns", ctypes.c_int64),
        ("since_ns", ctypes.c_int64),
        ("since_bytes", ctypes.c_uint64),
        ("gained", ctypes.c_uint64 * 2),
        ("seen_bytes", ctypes.c_uint64),
        ("turn", ctypes.c_uint32),
        ("on", ctypes.c_bool),
        ("ending", ctypes.c_bool),
    )


def polled_share(*, asleep_ns: int, polled_ns: int, look_ns: int = MS) -> float:
    """Return the share of 5 s that a lane polls; an op takes `polled_ns` if it began polling.

    Asked at each completion, and every `look_ns` between two.
    """
    pays = load().kv_polling_pays
    pays.argtypes = (ctypes.POINTER(Polling), ctypes.c_int64, ctypes.c_uint64)
    pays.restype = ctypes.c_bool
    polling, now_ns, moved_bytes, polled = Polling(), 0, 0, 0
    on, completes_ns = False, asleep_ns
    while now_ns < 5 * S:
        next_ns = min(now_ns + look_ns, completes_ns)
        polled += on * (next_ns - now_ns)
        now_ns = next_ns
        completed = now_ns == completes_ns
        moved_bytes += completed << 20
        on = pays(polling, now_ns, moved_bytes)
        if completed:
            completes_ns = now_ns + (polled_ns if on else asleep_ns)
    return polled / now_ns


def test_polling_that_gains_nothing_is_given_up() -> None:
    """A device that answers a lane that sleeps as fast: what is left is the trials' turns."""
    assert polled_share(asleep_ns=100_000, polled_ns=100_000) < 0.05


def test_polling_that_gains_a_hundredth_is_given_up() -> None:
    """It burns a CPU: so little isn't worth it."""
    assert polled_share(asleep_ns=101_000, polled_ns=100_000) < 0.05


def test_polling_that_takes_the_device_s_cpu_is_given_up() -> None:
    """A loop device copies in kernel threads, which the polling lane would keep from running."""
    assert polled_share(asleep_ns=100_000, polled_ns=200_000) < 0.1


def test_polling_that_gains_is_kept() -> None:
    """A fast device, beside which waking up takes long: only the trials' turns are slept."""
    assert polled_share(asleep_ns=30_000, polled_ns=20_000) > 0.95


@pytest.mark.parametrize("took_ms", [3, 5, 6, 7, 9])
def test_polling_of_a_slow_device_is_judged_by_whole_ops(took_ms: int) -> None:
    """Turns of 4 ms end with a completion: none is judged by how many ops happened to end in it."""
    assert polled_share(asleep_ns=took_ms * MS, polled_ns=took_ms * MS) < 0.12


@pytest.mark.parametrize("adapts", [False, True])
def test_everything_is_done_whether_polling_is_tried_out_or_not(
    arena: np.ndarray, *, adapts: bool
) -> None:
    """Each op of a device of 4 ms and depth 4 ends after it began, without an error."""
    count = 60
    options = LoopOptions(Mode.MAX, arena, 1, Verify.NONE, spin_ns=50 * MS, spin_adapts=adapts)
    lane = simulated_lane([4 * MS], queue_depth=4)
    outcome, times = run_whole(native.threads, (lane,), make_ops(count), count, options)
    assert not times.error.any()
    assert (times.complete_ns >= times.submit_ns + 4 * MS).all()
    assert outcome.cpu_ns > 0
