"""Where a container's policy forbids io_uring, replay goes on with threads and says why."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from replay.engine import native
from tests.support.seccomp import FORBID_URING

if native.threads.available() is not None:
    pytest.skip(str(native.threads.available()), allow_module_level=True)

SCRIPT = (
    FORBID_URING
    + """
import numpy as np
from kvtrace.errors import TargetError
from replay import engine as engines
from replay.ops.contract import Action, Lane, LaneKind, LoopOptions, Mode, Verify, run_whole
from replay.engine.native.testing import make_ops

chosen = engines.choose("auto")
assert chosen.name == "threads", chosen.name
try:
    engines.choose("uring")
except TargetError as error:
    assert "Operation not permitted" in str(error), error
else:
    raise AssertionError("uring was chosen")

with open(sys.argv[1], "w+b") as file:
    file.truncate(1 << 20)
    lane = Lane(LaneKind.FILE, queue_depth=4, io_bytes=1 << 16, fd=file.fileno())
    arena = np.random.default_rng(1).integers(0, 256, 1 << 20, dtype=np.uint8)
    options = LoopOptions(Mode.MAX, arena, run_id=1, verify=Verify.FULL)
    offsets = np.tile(np.arange(16) << 16, 2)
    ops = make_ops(
        32, edges=[(i, i + 16) for i in range(16)],
        action=np.repeat([Action.WRITE, Action.READ], 16), length_bytes=1 << 16,
        offset_bytes=offsets, arena_bytes=offsets, key=np.tile(np.arange(16), 2),
    )
    _, times = run_whole(chosen, (lane,), ops, 32, options)
    assert not times.error.any(), times.error
    try:
        run_whole(engines.uring, (lane,), ops, 32, options)
    except TargetError as error:
        assert "io_uring_setup for lane 0" in str(error), error
    else:
        raise AssertionError("uring ran")
print("done")
"""
)


@pytest.mark.slow
def test_threads_where_io_uring_is_forbidden(tmp_path: Path) -> None:
    """`auto` is `threads`, `uring` is refused with the reason, and I/O works."""
    root = Path(native.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "target")],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("no seccomp filters here")
    assert done.stdout == "done\n", done.stderr
