"""Loop devices and their partitions: attached clean, and gone again at the end."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCKS, DEVICES = Path("/sys/class/block"), Path("/dev")
PATIENCE_S = 10.0
"""Programs that look at every device hold one for a moment; then the kernel keeps it."""


def tool(*words: object) -> str:
    """Run a program and return what it printed; skip the test where it can't do that."""
    try:
        answer = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip(f"no {words[0]} here")
    if answer.returncode:
        pytest.skip(f"{words[0]}: {answer.stderr.strip()}")
    return answer.stdout.strip()


def attach(backing: Path, *options: object) -> Path:
    """Return a new loop device over a file or device, without an earlier one's partitions.

    The kernel keeps a partition that was added by hand when its loop device is detached, and shows
    it again on whatever is attached next.
    """
    device = Path(tool("losetup", "--show", "--find", *options, backing))
    forget_partitions(device)
    return device


def forget_partitions(device: Path) -> None:
    """Make the kernel forget all partitions of a device."""
    for number in partitions(device):
        drop_partition(device, number)


def detach(device: Path, backing: Path) -> None:
    """Detach a loop device and wait until it's free; one that was detached before is fine.

    By then another test may have it: only over `backing`, or over another file of a test beside it,
    is it still this one's. The kernel puts it off while a program has the device open.
    """

    def is_free() -> bool:
        held = _backing(device)
        return held is None or not (held == backing or held.parent == backing.parent != DEVICES)

    if not is_free():
        subprocess.run(["losetup", "--detach", device], capture_output=True, check=False)
        _wait(is_free)


def _backing(device: Path) -> Path | None:
    """Return what a loop device is over; None if it is free."""
    try:
        text = (BLOCKS / device.name / "loop/backing_file").read_text()
    except OSError:
        return None
    return Path(text.rstrip("\n").removesuffix(" (deleted)"))


def partitions(device: Path) -> list[int]:
    """Return the numbers of the partitions that the kernel lists on a device."""
    return [
        int((entry / "partition").read_text())
        for entry in (BLOCKS / device.name).glob(f"{device.name}p*")
    ]


def drop_partition(device: Path, number: int) -> None:
    """Make the kernel forget a partition; it refuses while somebody has it open.

    Raises:
        AssertionError: It is still there after a while.

    """
    entry = BLOCKS / f"{device.name}p{number}"

    def gone() -> bool:
        if entry.exists():
            subprocess.run(["delpart", device, str(number)], capture_output=True, check=False)
        return not entry.exists()

    assert _wait(gone), f"{entry.name} stays"


def _wait(done: Callable[[], bool]) -> bool:
    """Return whether something became true before patience ran out."""
    end = time.monotonic() + PATIENCE_S
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
