"""Polling that a lane tries out: what pays is kept, and everything is done either way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from replay.engine import native
from replay.engine.native.testing import make_ops
from replay.ops.contract import LoopOptions, Mode, Verify, run_whole
from tests.replay import test_native_kit as kit
from tests.replay.test_native_kit import simulated_lane

if TYPE_CHECKING:
    import numpy as np

if native.threads.available() is not None:
    pytest.skip(str(native.threads.available()), allow_module_level=True)

arena = kit.arena
MS = 1_000_000


def cpu_share(bytes_: np.ndarray, *, adapts: bool) -> float:
    """Return the loop's CPU time ÷ wall time while it waits for a slow device of depth 4."""
    count = 1200
    options = LoopOptions(Mode.MAX, bytes_, 1, Verify.NONE, spin_ns=50 * MS, spin_adapts=adapts)
    lane = simulated_lane([4 * MS], queue_depth=4)
    outcome, times = run_whole(native.threads, (lane,), make_ops(count), count, options)
    assert not times.error.any()
    assert (times.complete_ns > 0).all()
    return outcome.cpu_ns / float(times.complete_ns.max() - outcome.start_ns)


@pytest.mark.slow
@pytest.mark.alone
def test_polling_that_gains_nothing_is_given_up(arena: np.ndarray) -> None:
    """A device of 4 ms answers as fast to a lane that sleeps: it burns CPU in trials only."""
    always = cpu_share(arena, adapts=False)
    assert always > 0.5
    assert cpu_share(arena, adapts=True) < 0.75 * always
