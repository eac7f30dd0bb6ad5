"""kill -9 of what writes to devices: the next run works, and nothing else was touched."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.disks import Disks, digest
from tests.support.processes import all_end, children_of, start
from tests.support.traces import simple_rows, write_trace

if TYPE_CHECKING:
    from pathlib import Path

KILLS = int(os.environ.get("KVTRACE_KILLS", "1"))
"""Per command and target; 200 in all is what a release is tried with."""
LONGEST_S = 4.0

pytestmark = pytest.mark.slow


def replay_words(trace: Path, target: tuple[object, ...]) -> tuple[object, ...]:
    """Return a run of a second that fills, populates, replays and reports."""
    return ("replay", trace, *target, "--settle", "0s", "--min-window", "0s", "--arena", "16MiB")


def precondition_words(_: Path, target: tuple[object, ...]) -> tuple[object, ...]:
    """Return a pass in order and one at random."""
    return ("precondition", *target, "--passes", 2, "--arena", "16MiB")


@pytest.mark.parametrize("kind", ["new file", "device", "folder"])
@pytest.mark.parametrize("command", ["replay", "precondition", "bench"])
def test_a_kill_at_any_moment(kind: str, command: str, disks: Disks) -> None:
    """The same command works afterwards, on the same target; a neighbour keeps its bytes."""
    if command == "precondition" and kind == "folder":
        pytest.skip("a folder has no state to bring it to")
    rng = np.random.default_rng(np.random.SeedSequence(14, spawn_key=(len(kind), len(command))))
    trace = write_trace(disks.folder / "t.parquet", simple_rows(100, gap_ns=2_000_000)[1:])
    neighbour = disks.folder / "neighbour"
    neighbour.write_bytes(os.urandom(1 << 20))
    before = digest(neighbour)
    image = disks.image(32 << 20)
    device = disks.loop(image)
    for number in range(KILLS):
        target = {
            "new file": ("--device", disks.folder / f"kv{number}", "--size", "32MiB"),
            "device": ("--device", device, "--allow-destroy", device),
            "folder": ("--dir", disks.folder / f"kv{number}"),
        }[kind]
        words = (precondition_words if command == "precondition" else replay_words)(trace, target)
        if command == "bench":
            folder = disks.folder / f"bench{number}"
            words = ("bench", "--trace", trace, "--folder", folder, "--trials", 1, *words[2:])
        process = start(*words)
        time.sleep(float(rng.uniform(0, LONGEST_S)))
        begun = children_of(process.pid)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert all_end(begun), "nothing goes on against the device"
        if command == "bench":
            words = (*words[:4], disks.folder / f"again{number}", *words[5:])
        again = start(*words)
        _, errors = again.communicate(timeout=120)
        assert again.returncode in (0, 5), errors
    assert digest(neighbour) == before
