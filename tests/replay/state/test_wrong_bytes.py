"""A device that gives back other bytes, through whole runs: found, named, INVALID, exit 5."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kvtrace.trace.schema import Op, Phase, Tier
from tests.support.traces import Row, file_target, write_trace
from tests.support.whole import Command, Midway, codes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

R, W, NVME = Op.READ, Op.WRITE, Tier.NVME
SIZE, SECTOR = 8192, 512
RUN = 7
ACCEPT = ("--accept", "host_lateness", "--accept", "device_shared")
BUSY = {"host_lateness", "device_shared"}


@pytest.fixture
def command(cli: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """`kvtrace replay` on ready-made targets."""
    return Command(cli, monkeypatch, tmp_path)


class Disk:
    """The file that a run writes, looked at and changed from outside, as a faulty device would."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "target"

    def place(self, key: int, sector: int = 0) -> int:
        """Return where a sector of an object lies, by its stamp."""
        words = np.fromfile(self.path, "<u8").reshape(-1, SECTOR // 8)
        mine = (words[:, 0] == key) & (words[:, 1] & np.uint64((1 << 31) - 1) == sector)
        (found,) = np.flatnonzero(mine).tolist()
        return int(found) * SECTOR

    def read(self, place: int, count: int = SIZE) -> bytes:
        """Return bytes."""
        with self.path.open("rb") as file:
            file.seek(place)
            return file.read(count)

    def write(self, place: int, content: bytes) -> None:
        """Replace bytes, on the device too."""
        with self.path.open("r+b") as file:
            file.seek(place)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def flip(self, place: int) -> None:
        """Change one bit."""
        self.write(place, bytes([self.read(place, 1)[0] ^ 4]))


def reads(first_key: int) -> list[Row]:
    """Three objects that are read."""
    return [(i, R, NVME, first_key + i, Phase.DECODE, SIZE) for i in range(3)]


def run(
    command: Command,
    disk: Disk,
    rows: list[Row],
    fault: Callable[[], None],
    *words: object,
    after: int = 0,
) -> tuple[int, str, dict[str, Any]]:
    """Replay with a fault; return exit code, printed report and JSON."""
    trace = write_trace(disk.path.with_name("t.parquet"), rows)
    watcher = Midway(fault, after)
    words = (*ACCEPT, "--run-id", RUN, *words)
    outcome, found = command(trace, [file_target(disk.path)], *words, watcher=watcher)
    assert watcher.happened
    return outcome.code, " ".join(outcome.out.split()), found


def must_name(answer: tuple[int, str, dict[str, Any]], *named: str) -> None:
    """Check that each read that was wrong is named with object, offset and what was found."""
    code, printed, found = answer
    assert (code, found["verdict"]) == (5, "INVALID")
    assert codes(found) - BUSY == {"verify_failed"}
    assert found["errors_by_name"] == {"verify_failed": len(named)}
    assert list(found["payload"]["mismatches"]) == list(named)
    assert f"{len(named)} reads returned bytes that differ from those written; first: " in printed
    assert named[0] in printed


def told(key: int, byte: int, place: int, what: str, generation: int = 0) -> str:
    """Return how a wrong sector is told."""
    return (
        f"object {key}, byte {byte} (target offset {place}): generation {generation} expected, "
        f"read again after the run: {what}"
    )


@pytest.mark.slow
def test_a_flipped_bit_in_a_body(command: Command, direct_path: Path) -> None:
    """Found by --verify full; stamps alone can't know."""
    disk = Disk(direct_path)

    def fault() -> None:
        disk.flip(disk.place(501, sector=2) + 100)

    answer = run(command, disk, reads(500), fault, "--verify", "full")
    place = disk.place(501, sector=2)
    must_name(answer, told(501, 1024, place, "the right stamp and a wrong body"))
    code, _, found = run(command, disk, reads(500), fault, "--verify", "stamps")
    assert (code, codes(found) - BUSY) == (0, set())


@pytest.mark.parametrize("verify", ["stamps", "full"])
def test_a_flipped_bit_in_a_stamp(command: Command, direct_path: Path, verify: str) -> None:
    """Of the generation: the stamp is told as it stands there."""
    disk = Disk(direct_path)

    def fault() -> None:
        disk.flip(disk.place(502, sector=3) + 12)  # bit 34 of the word: 8 generations on

    answer = run(command, disk, reads(500), fault, "--verify", verify)
    place = disk.place(502, sector=3)
    what = f"the stamp of key 502, sector 3, generation 8, run {RUN}"
    must_name(answer, told(502, 1536, place, what))


def test_two_objects_in_each_others_place(command: Command, direct_path: Path) -> None:
    """Both are named, with the other one."""
    disk = Disk(direct_path)
    places: list[int] = []

    def fault() -> None:
        places.extend(disk.place(key) for key in (500, 502))
        contents = [disk.read(place) for place in places]
        for place, content in zip(places, reversed(contents), strict=True):
            disk.write(place, content)

    answer = run(command, disk, reads(500), fault)
    named = [
        told(key, 0, place, f"the stamp of key {other}, sector 0, generation 0, run {RUN}")
        for key, other, place in zip((500, 502), (502, 500), places, strict=True)
    ]
    must_name(answer, *named)


@pytest.mark.slow
@pytest.mark.parametrize("first_key", [500, 900])
def test_what_an_earlier_run_has_written(
    command: Command, direct_path: Path, first_key: int
) -> None:
    """A write that never arrived: the place still has the earlier run's object."""
    disk = Disk(direct_path)
    earlier = write_trace(direct_path / "earlier.parquet", reads(first_key))
    outcome, _ = command(earlier, [file_target(disk.path)], *ACCEPT, "--run-id", 6)
    assert outcome.code == 0
    place = disk.place(first_key)
    left = disk.read(place)
    key = 500

    def fault() -> None:
        nonlocal key
        key = int.from_bytes(disk.read(place, 8), "little")
        disk.write(place, left)

    answer = run(command, disk, reads(500), fault)
    what = f"the stamp of key {first_key}, sector 0, generation 0, run 6"
    must_name(answer, told(key, 0, place, what))


@pytest.mark.slow
def test_a_stale_generation(command: Command, direct_path: Path) -> None:
    """An overwrite that is lost while the run goes on: the read of it finds what was before."""
    disk = Disk(direct_path)
    rows = [
        *reads(500),
        (3, W, NVME, 501, Phase.EVICT, SIZE),
        (1_500_000_000, R, NVME, 501, Phase.DECODE, SIZE),
    ]
    kept: list[tuple[int, bytes]] = []

    def keep() -> None:
        kept.append((disk.place(501), disk.read(disk.place(501))))

    class Losing(Midway):
        """Keeps what was populated, and puts it back after the overwrite."""

        def stage(self, name: str, total: int | None) -> None:
            if name == "replaying":
                keep()
            super().stage(name, total)

    trace = write_trace(direct_path / "t.parquet", rows)
    watcher = Losing(lambda: disk.write(*kept[0]), after=4)
    words = (*ACCEPT, "--run-id", RUN)
    outcome, found = command(trace, [file_target(disk.path)], *words, watcher=watcher)
    place = kept[0][0]
    what = f"the stamp of key 501, sector 0, generation 0, run {RUN}"
    answer = (outcome.code, " ".join(outcome.out.split()), found)
    must_name(answer, told(501, 0, place, what, generation=1))
