"""`kvtrace discover`: which places can be replayed on, and commands that can be pasted."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest

from kvtrace.cli.main import command
from kvtrace.units import GIB
from replay.host.disks import why_not_disk, why_not_file_system
from replay.host.gpus import Gpus
from replay.host.suggest import LEAST_BYTES, Suggestion, suggest
from tests.support.machines import disk, file_system, machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.command import Outcome

NO_GPU = Gpus((), "none")


def parses(text: str) -> None:
    """Fail unless the options of a command line exist and have values."""
    words = shlex.split(text.replace("\\\n", " "))
    assert words[0] == "kvtrace"
    command(words[1]).make_context(words[1], words[2:])


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"mounts": ("/data",)}, "mounted"),
        ({"holders": ("dm-0",)}, "dm-0"),
        ({"read_only": True}, "read-only"),
        ({"swap": True}, "swap"),
    ],
)
def test_a_device_in_use_is_no_target(fields: dict[str, object], reason: str) -> None:
    """Each says why; a free one has no reason."""
    assert why_not_disk(disk()) is None
    said = why_not_disk(disk(**fields))
    assert said is not None
    assert reason in said


def test_a_full_file_system_is_no_target() -> None:
    """Nor one that can't be written to."""
    assert why_not_file_system(file_system(), LEAST_BYTES) is None
    assert why_not_file_system(file_system(), 1 << 60) is not None
    assert why_not_file_system(file_system(writable=False), LEAST_BYTES) is not None


def suggested(*places: object) -> Suggestion:
    """Return what is suggested on a machine with a disk or a file system."""
    drives = tuple(each for each in places if hasattr(each, "holders"))
    others = tuple(each for each in places if not hasattr(each, "holders"))
    found = suggest(machine(), NO_GPU, drives, others)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_suggestions_can_be_pasted() -> None:
    """Whole commands whose options exist, in 80 columns; a device is named as it must be."""
    drive = disk(size_bytes=512 * GIB)
    for found in (suggested(drive), suggested(file_system(free_bytes=512 * GIB))):
        for text in (found.record, found.replay):
            parses(text)
            assert all(len(line) <= 80 for line in text.splitlines())
    found = suggested(drive, file_system(free_bytes=900 * GIB))
    assert f"--device {drive.path} --allow-destroy {drive.allow_destroy}" in found.replay.replace(
        " \\\n    ", " "
    )
    assert "destroys everything" in found.note


def test_without_room_nothing_is_suggested() -> None:
    """A mounted device and a full file system are none."""
    assert suggest(machine(), NO_GPU, (disk(mounts=("/",)),), ()) is None


def test_this_machine_is_shown(cli: Callable[..., Outcome]) -> None:
    """In 80 columns where names allow, and as JSON with the same places."""
    shown = cli("discover")
    assert shown.code == 0
    assert all(len(line) <= 80 for line in shown.out.splitlines())
    found = json.loads(cli("discover", "--json").out)
    assert found["machine"]["cpus"] > 0
    # Others attach and detach loop devices meanwhile; drives stay.
    there = {drive["path"] for drive in found["disks"]}
    for path in (path for path in there if not path.startswith("/dev/loop")):
        assert path in shown.out
    assert {"gpus", "disks", "file_systems"} <= set(found)
