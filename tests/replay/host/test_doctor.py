"""`kvtrace doctor`: each check fires where it should, and doesn't where it shouldn't."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kvtrace.units import GIB, KIB, MIB, S_NS
from replay.device import mounts
from replay.host import activity, beneath, doctor, place
from replay.host.beneath import Beneath
from replay.host.doctor import CHECKS, Level, Snapshot, examine
from replay.host.series import Sample
from tests.support.machines import (
    ACTIVITY,
    MACHINE,
    disk,
    file_system,
    of_activity,
    of_machine,
    of_place,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.command import Outcome

HEALTHY = of_machine()
LOOP = disk(name="loop0", model="loop device over /x")


def level_of(snapshot: Snapshot, code: str) -> Level:
    """Return what one check says of a snapshot."""
    return next(finding.level for finding in examine(snapshot) if finding.code == code)


def test_nothing_is_wrong_with_a_healthy_machine() -> None:
    """Every check that applies has a figure, and no remedy."""
    found = examine(HEALTHY)
    assert {finding.level for finding in found} == {Level.OK}
    assert all(finding.figure and not finding.remedy for finding in found)
    codes = [finding.code for finding in found]
    assert (
        len(codes) == len(set(codes)) == len(CHECKS) - 2
    )  # no loop device, no file system without a device


FIRING = [
    ("io_uring", of_machine(no_uring="refused by policy")),
    ("cpus", of_machine(cpus=2)),
    ("cpu_governor", of_machine(governors=("performance", "powersave"))),
    ("clocksource", of_machine(clocksource="hpet")),
    ("memlock", of_machine(memlock_bytes=64 * KIB)),
    ("huge_pages", of_machine(huge_pages=100, huge_pages_free=50)),
    ("huge_pages", of_machine(transparent_huge_pages="never")),
    ("transparent_huge_pages", of_machine(transparent_huge_pages="never")),
    ("transparent_huge_pages", of_machine(transparent_huge_pages=None)),
    ("memory", of_machine(available_bytes=2 * GIB)),
    ("swap", of_machine(swap_used_bytes=1 * MIB)),
    ("cpu_steal", of_activity(steal_ratio=0.02)),
    ("busy_cpus", of_activity(busy_cpus=4.0)),
    ("busy_device", of_activity(device_bytes_per_s=2e6)),
    ("busy_device", of_activity(device_busy_ratio=0.2)),
    ("free_space", of_place(file_system=file_system(free_bytes=205 * GIB))),
    ("loop_device", of_place(disk=disk(name="loop0", model="loop", loop_direct=False))),
    ("in_memory", of_place(disk=None, beneath=Beneath(in_memory=True))),
    ("io_limit", of_place(beneath=Beneath(io_limit="100 reads per second"))),
    ("virtual_disk", of_place(disk=disk(name="vdb", model="vdb"))),
    ("virtual_disk", of_place(disk=disk(name="nvme1n1", model="Elastic Block Store"))),
    ("virtual_disk", of_place(disk=disk(name="zram0", model="zram0"))),
]


@pytest.mark.parametrize(("code", "snapshot"), FIRING)
def test_a_check_fires(code: str, snapshot: Snapshot) -> None:
    """What spoils a run is a warning with a figure and a remedy; nothing else changes."""
    found = {finding.code: finding for finding in examine(snapshot)}
    assert found[code].level == Level.WARNING
    assert found[code].figure
    assert found[code].remedy
    others = {name for name, each in found.items() if each.level != Level.OK} - {code}
    assert others <= {"huge_pages", "transparent_huge_pages"}


QUIET = [
    ("clocksource", of_machine(clocksource="kvm-clock")),
    ("clocksource", of_machine(clocksource=None)),
    ("cpu_governor", of_machine(governors=())),
    ("cpus", of_machine(cpus=4)),
    ("memlock", of_machine(memlock_bytes=64 * KIB, root=True)),
    ("memlock", of_machine(memlock_bytes=2 * GIB)),
    ("huge_pages", of_machine(huge_pages=1000, huge_pages_free=800)),
    ("transparent_huge_pages", of_machine(transparent_huge_pages="always")),
    (
        "transparent_huge_pages",
        of_machine(huge_pages=800, huge_pages_free=800, transparent_huge_pages="never"),
    ),
    ("swap", of_machine(swap_bytes=0)),
    ("cpu_steal", of_activity(steal_ratio=0.005)),
    ("busy_cpus", of_activity(busy_cpus=3.0)),
    ("busy_device", of_activity(device_bytes_per_s=1e5, device_busy_ratio=0.01)),
    ("loop_device", of_place(disk=disk(name="loop0", model="loop", loop_direct=True))),
    ("virtual_disk", of_place(disk=LOOP)),
    ("direct_io", of_place(file_system=file_system(direct=None))),
]


@pytest.mark.parametrize(("code", "snapshot"), QUIET)
def test_a_check_does_not_fire(code: str, snapshot: Snapshot) -> None:
    """What is within its limit, or not known, is no warning."""
    assert level_of(snapshot, code) == Level.OK


IMPOSSIBLE = [
    ("target", of_place(refused="it is mounted at /")),
    ("direct_io", of_place(file_system=file_system(direct=False, type="overlay"))),
    ("free_space", of_place(file_system=file_system(free_bytes=10 * GIB))),
]


@pytest.mark.parametrize(("code", "snapshot"), IMPOSSIBLE)
def test_what_a_replay_would_refuse_is_impossible(code: str, snapshot: Snapshot) -> None:
    """It comes first, with the reason."""
    first = examine(snapshot)[0]
    assert (first.code, first.level) == (code, Level.IMPOSSIBLE)
    assert first.remedy


def test_without_a_target_only_the_machine_is_examined() -> None:
    """Checks of a target don't apply then."""
    quiet = activity.Activity(2.0, 0.0, 0.0, None, None)
    codes = {finding.code for finding in examine(Snapshot(MACHINE, quiet))}
    of_targets = {"target", "direct_io", "free_space", "loop_device", "virtual_disk", "busy_device",
                  "io_limit", "in_memory"}  # fmt: skip
    assert not codes & of_targets
    assert "io_uring" in codes


def test_a_device_says_what_the_replay_will_want() -> None:
    """What has to be typed before a device is overwritten is part of the figure."""
    snapshot = of_place(kind="device", file_system=None, needs="--allow-destroy S123")
    figure = next(each.figure for each in examine(snapshot) if each.code == "target")
    assert "--allow-destroy S123" in figure


def test_activity_of_others_is_what_is_left() -> None:
    """Our own CPU time and what was stolen are taken off; bytes are those of both directions."""
    stats = ("0 0 0 0 0 0 0 0 0 0 0", "5 0 1000 9 3 0 3000 4 0 500 70")
    ticks = ("cpu 0 0 0 0 0 0 0 0", "cpu 200 0 60 300 0 0 0 40")
    first, last = (
        Sample(at * 2 * S_NS, at * S_NS // 2, tick, ((stat, "0 0"),))
        for at, (tick, stat) in enumerate(zip(ticks, stats, strict=True))
    )
    found = activity.between(first, last, ticks_per_s=100, cpus=3)
    assert found.window_s == 2
    assert found.busy_cpus == pytest.approx((2 + 0.6 - 0.5) / 2)
    assert found.steal_ratio == pytest.approx(0.4 / 2 / 3)
    assert found.device_bytes_per_s == 4000 * 512 / 2
    assert found.device_busy_ratio == 0.25
    bare = (_without_device(first), _without_device(last))
    alone = activity.between(*bare, ticks_per_s=100, cpus=3)
    assert (alone.device_bytes_per_s, alone.device_busy_ratio) == (None, None)


def _without_device(sample: Sample) -> Sample:
    return Sample(sample.at_ns, sample.process_ns, sample.machine, ())


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others do nothing, and nobody waits to see it."""
    monkeypatch.setattr(activity, "measure", lambda _: ACTIVITY)


@pytest.mark.usefixtures("still")
def test_the_command_fits_80_columns(cli: Callable[..., Outcome], direct_path: Path) -> None:
    """Exit 0 with warnings at most; every check has its line."""
    found = cli("doctor", "--device", direct_path / "new.dat")
    assert found.code == 0
    assert all(len(line) <= 80 for line in found.out.splitlines())
    for code in ("target", "direct_io", "free_space", "io_uring", "cpus", "memlock", "swap"):
        assert f" {code}: " in found.out
    assert "0 errors" in found.out


@pytest.mark.usefixtures("still")
def test_json_has_checks_and_what_they_saw(
    cli: Callable[..., Outcome],
) -> None:
    """Machine-readable: each check with its level, and the whole snapshot."""
    found = cli("doctor", "--json")
    document = json.loads(found.out)
    assert document["possible"] is True
    assert {check["code"] for check in document["checks"]} >= {"io_uring", "cpus"}
    assert {check["level"] for check in document["checks"]} <= set(Level)
    assert document["machine"]["memory_bytes"] > 0
    assert document["activity"]["window_s"] == 2
    assert document["place"] is None


@pytest.mark.usefixtures("still")
def test_an_impossible_target_exits_4(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """A folder that isn't there, and a file that is somebody else's."""
    assert cli("doctor", "--device", tmp_path / "gone/x").code == 4
    (tmp_path / "mine").write_text("not kvtrace's")
    found = cli("doctor", "--device", tmp_path / "mine")
    assert found.code == 4
    assert "1 error\n" in found.out
    assert (tmp_path / "mine").read_text() == "not kvtrace's"


@pytest.mark.slow
def test_others_are_watched_for_a_moment() -> None:
    """The real measurement returns what the kernel says, over the time that was asked for."""
    found = activity.measure(None, window_ns=S_NS // 10)
    assert found.window_s >= 0.1
    assert found.busy_cpus >= 0
    assert 0 <= found.steal_ratio <= 1


def test_a_file_and_a_folder_are_looked_at(direct_path: Path) -> None:
    """A new file may be made, a folder used; both name the file system and its device."""
    for path, kind in ((direct_path / "new", "file"), (direct_path, "folder")):
        found, _ = place.observe(path)
        assert (found.kind, found.refused, found.needs) == (kind, "", "")
        assert found.file_system is not None
        assert found.file_system.direct is True
        assert found.file_system.free_bytes > 0


def test_memory_is_no_place(cli: Callable[..., Outcome]) -> None:
    """A file system in memory is refused in the replay's own words."""
    if not Path("/dev/shm").is_dir():
        pytest.skip("no /dev/shm here")
    found, _ = place.observe(Path("/dev/shm"))
    assert found.kind == "folder"
    assert found.refused or doctor.check_direct(Snapshot(MACHINE, ACTIVITY, found)) is not None


def test_a_device_is_looked_at(loop_device: Callable[..., Path]) -> None:
    """Its identity is what the replay wants; a loop device says whether it is direct."""
    path = loop_device()
    found, sysfs = place.observe(path)
    assert sysfs is not None
    assert found.disk is not None
    assert (found.kind, found.refused) == ("device", "")
    assert found.disk.loop_direct is True
    assert not found.beneath.cached
    assert found.disk.signatures == ()
    assert found.needs == f"--allow-destroy {path}"
    assert level_of(Snapshot(MACHINE, ACTIVITY, found), "loop_device") == Level.OK
    subprocess.run(["losetup", "--direct-io=off", str(path)], check=True)
    found, _ = place.observe(path)
    assert found.beneath.cached
    assert level_of(Snapshot(MACHINE, ACTIVITY, found), "loop_device") == Level.WARNING


def test_a_loop_device_over_a_file_in_memory_is_in_memory(tmp_path: Path) -> None:
    """A file system in memory is found below a file, and below a loop device over one."""
    shm = Path("/dev/shm")
    if not shm.is_dir() or mounts.mount_of(shm) is None or mounts.mount_of(shm).type != "tmpfs":
        pytest.skip("no tmpfs at /dev/shm")
    assert beneath.observe(None, shm / "new").in_memory
    loop = tmp_path / "loop7"
    (loop / "loop").mkdir(parents=True)
    (loop / "loop/backing_file").write_text("/dev/shm/x")
    assert beneath.observe(loop, None).in_memory
    (loop / "loop/backing_file").write_text(f"{tmp_path}/x")
    assert not beneath.observe(loop, None).in_memory


def test_a_loop_device_is_on_what_its_file_is_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file on a virtual disk makes the loop device over it a virtual one."""
    loop, disk = tmp_path / "loop7", tmp_path / "vda"
    (loop / "loop").mkdir(parents=True)
    disk.mkdir()
    (tmp_path / "image").touch()
    (loop / "loop/backing_file").write_text(f"{tmp_path}/image")
    monkeypatch.setattr("replay.device.sysfs.sysfs_of", lambda _: disk)
    assert beneath.observe(loop, None).virtual
    monkeypatch.setattr("replay.device.sysfs.sysfs_of", lambda _: tmp_path / "sda")
    assert not beneath.observe(loop, None).virtual


def test_limits_of_cgroups_are_found(tmp_path: Path) -> None:
    """Of version 2 and 1, of this cgroup and those above it; those of other devices aren't."""
    disk, own, root = tmp_path / "vda", tmp_path / "cgroup", tmp_path / "root"
    disk.mkdir()
    (disk / "dev").write_text("254:0")
    own.write_text("9:cpu,blkio:/job\n0::/pod/box\n")
    (root / "pod/box").mkdir(parents=True)
    (root / "pod/box/io.max").write_text("254:16 rbps=1 wbps=1 riops=1 wiops=1\n")
    (root / "pod/io.max").write_text("254:0 rbps=104857600 wbps=max riops=max wiops=500\n")
    (root / "blkio/job").mkdir(parents=True)
    (root / "blkio/job/blkio.throttle.write_bps_device").write_text("254:0 1048576\n8:0 5\n")
    assert sorted(beneath.io_limits(disk, own, root)) == [
        "1.00 MiB/s of writes", "100.00 MiB/s of reads", "500 writes per second",
    ]  # fmt: skip
