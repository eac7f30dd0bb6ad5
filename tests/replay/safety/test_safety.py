"""What a run must not touch: refused, told in one line, and nothing written (by digest)."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import replay
from kvtrace.errors import TargetError
from kvtrace.trace.schema import Op, Phase, Tier
from replay import ReplayOptions, TargetSpec
from replay.device import mounts
from replay.device import sysfs as device
from replay.safety import identity, preflight, signatures
from tests.support.digests import digest
from tests.support.traces import MIB, Row, file_target, simple_rows, write_trace

Quick = Callable[..., ReplayOptions]
MakeLoop = Callable[..., Path]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A trace that writes."""
    return write_trace(tmp_path / "trace.parquet", simple_rows(4))


def refuse(trace: Path, spec: TargetSpec, options: ReplayOptions, match: str) -> TargetError:
    """Replay and expect a TargetError in one line; return it."""
    with pytest.raises(TargetError, match=match) as caught:
        replay.run(trace, [spec], options)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 4
    return caught.value


def test_a_foreign_file_is_never_overwritten(direct_path: Path, trace: Path, quick: Quick) -> None:
    """A file without our header, an empty one too, stays as it is."""
    for content in (b"precious" * 1000, b""):
        path = direct_path / "foreign"
        path.write_bytes(content)
        refuse(trace, file_target(path), quick(), "wasn't made by kvtrace")
        assert path.read_bytes() == content


@pytest.mark.slow
def test_links_are_refused(direct_path: Path, trace: Path, quick: Quick) -> None:
    """A symbolic link, a broken one, and a file with two names."""
    path = direct_path / "target"
    replay.run(trace, [file_target(path)], quick())
    before = digest(path)
    link = direct_path / "link"
    link.symlink_to(path)
    refuse(trace, file_target(link), quick(), "symbolic link.*name the file itself")
    broken = direct_path / "broken"
    broken.symlink_to(direct_path / "nowhere")
    refuse(trace, file_target(broken), quick(), "broken link")
    os.link(path, direct_path / "second")
    refuse(trace, file_target(path), quick(), "several hard links")
    assert digest(path) == before


def test_what_is_no_file_is_refused(direct_path: Path, trace: Path, quick: Quick) -> None:
    """A directory, a pipe, a device that isn't there, a directory that isn't there."""
    refuse(trace, file_target(direct_path), quick(), "is a directory")
    os.mkfifo(direct_path / "pipe")
    refuse(trace, file_target(direct_path / "pipe"), quick(), "neither a block device nor")
    refuse(trace, file_target(Path("/dev/nothing-like-this")), quick(), "no such device")
    missing = direct_path / "missing" / "target"
    refuse(trace, file_target(missing), quick(), "no such directory")
    refuse(trace, file_target(Path("/dev/null")), quick(), "neither a block device nor")


def test_memory_file_systems_are_refused_with_the_remedy(
    trace: Path, quick: Quick, tmp_path: Path
) -> None:
    """A file on tmpfs has no direct I/O worth the name: --cpu memory is named instead."""
    shm = Path("/dev/shm")
    mount = mounts.mount_of(shm) if shm.is_dir() else None
    if mount is None or mount.type != "tmpfs":
        pytest.skip("no tmpfs at /dev/shm")
    path = shm / f"kvtrace-test-{os.getpid()}"
    path.write_bytes(b"x" * 8192)
    try:
        refuse(trace, file_target(path), quick(), "O_DIRECT.*tmpfs.*--cpu memory")
        assert path.read_bytes() == b"x" * 8192
    finally:
        path.unlink()


def test_a_new_file_leaves_five_percent_free(direct_path: Path, trace: Path, quick: Quick) -> None:
    """More than the file system can give is refused with the figures; no file appears."""
    found = os.statvfs(direct_path)
    path = direct_path / "target"
    spec = file_target(path, size_bytes=found.f_bavail * found.f_frsize // 4096 * 4096)
    refuse(trace, spec, quick(), "not enough space.*needed.*5 % of")
    assert not path.exists()


def test_a_full_file_system_leaves_nothing_behind(
    direct_path: Path, trace: Path, quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Preallocation that fails removes the new file."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    path = direct_path / "target"
    refuse(trace, file_target(path), quick(), "can't preallocate.*No space left")
    assert not path.exists()


@pytest.mark.slow
def test_a_file_attached_to_a_loop_device_is_refused(
    loop_device: MakeLoop, trace: Path, quick: Quick, tmp_path: Path
) -> None:
    """Its contents belong to whoever uses the loop device."""
    loop = loop_device()
    backing = tmp_path / "disk0"
    before = digest(backing)
    refuse(trace, file_target(backing), quick(), f"attached to a loop device.*{loop}")
    assert digest(backing) == before


def test_swap_is_refused(
    direct_path: Path, trace: Path, quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that the kernel swaps to."""
    path = direct_path / "target"
    replay.run(trace, [file_target(path)], quick())
    before = digest(path)
    monkeypatch.setattr(mounts, "swaps", lambda: (path,))
    refuse(trace, file_target(path), quick(), "is swap")
    assert digest(path) == before


@pytest.mark.slow
def test_a_device_needs_its_identity(loop_device: MakeLoop, trace: Path, quick: Quick) -> None:
    """Without --allow-destroy, or with another's, it is refused with model, size and the way."""
    loop = loop_device()
    before = digest(loop)
    error = refuse(trace, file_target(loop), quick(), "everything on it would be destroyed")
    assert f"--allow-destroy {loop}" in str(error)
    assert "loop device over" in str(error)
    assert "64.00 MiB" in str(error)
    assert "zeros where sampled" in str(error)
    refuse(trace, file_target(loop, allow_destroy="/dev/sda"), quick(), "would be destroyed")
    assert digest(loop) == before


@pytest.mark.slow
def test_a_device_with_its_identity_is_used(
    loop_device: MakeLoop, trace: Path, quick: Quick
) -> None:
    """Allowed by name: the run is done and our marker is on it."""
    loop = loop_device()
    result = replay.run(trace, [file_target(loop, allow_destroy=str(loop))], quick(verify="full"))
    assert result.errors == {}
    assert result.lanes[0].device is not None
    assert preflight.look(loop).marker is not None
    error = refuse(trace, file_target(loop), quick(), "would be destroyed")
    assert "carries our header" in str(error)


@pytest.mark.slow
def test_data_without_a_signature_is_reported(
    loop_device: MakeLoop, trace: Path, quick: Quick
) -> None:
    """Bytes of no known format need consent of their own, and the refusal shows where they are."""

    def fill(backing: Path) -> None:
        with backing.open("r+b") as file:
            file.seek(MIB // 2)
            file.write(b"\x5a" * MIB)

    loop = loop_device(prepare=fill)
    before = digest(loop)
    named = file_target(loop, allow_destroy=str(loop))
    refuse(trace, named, quick(), "isn't recognised.*at byte 524288.*--allow-signature unknown")
    assert digest(loop) == before
    both = file_target(loop, allow_destroy=str(loop), allow_signature=("unknown",))
    assert replay.run(trace, [both], quick()).errors == {}
    assert replay.run(trace, [named], quick()).errors == {}, "it is ours now"


def make_ext4(backing: Path) -> None:
    """Put a file system into a file."""
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("no mkfs.ext4 here")
    subprocess.run(["mkfs.ext4", "-q", "-F", str(backing)], check=True)


@pytest.mark.slow
def test_a_signature_is_refused_unless_its_type_is_named(
    loop_device: MakeLoop, trace: Path, quick: Quick
) -> None:
    """A file system stays until both its type and the device are named."""
    loop = loop_device(prepare=make_ext4)
    before = digest(loop)
    spec = file_target(loop, allow_destroy=str(loop))
    refuse(trace, spec, quick(), "signature.*ext4.*--allow-signature ext4")
    wrong = file_target(loop, allow_destroy=str(loop), allow_signature=("xfs",))
    refuse(trace, wrong, quick(), "signature.*ext4")
    only_signature = file_target(loop, allow_signature=("ext4",))
    refuse(trace, only_signature, quick(), "would be destroyed")
    assert digest(loop) == before
    both = file_target(loop, allow_destroy=str(loop), allow_signature=("ext4",))
    assert replay.run(trace, [both], quick()).errors == {}


@pytest.mark.slow
def test_a_partition_table_is_refused(loop_device: MakeLoop, trace: Path, quick: Quick) -> None:
    """A DOS partition table is a signature too."""

    def partition(backing: Path) -> None:
        entry = bytes([0, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0x20, 0, 0])
        table = bytes(440) + b"\x12\x34\x56\x78\0\0" + entry + bytes(48) + b"\x55\xaa"
        with backing.open("r+b") as file:
            file.write(table)

    loop = loop_device(prepare=partition)
    before = digest(loop)
    spec = file_target(loop, allow_destroy=str(loop))
    refuse(trace, spec, quick(), "signature.*dos")
    assert digest(loop) == before


@pytest.fixture
def mounted(loop_device: MakeLoop, tmp_path: Path) -> Iterator[Path]:
    """A loop device that is mounted."""
    loop = loop_device(prepare=make_ext4)
    point = tmp_path / "point"
    point.mkdir()
    answer = subprocess.run(["mount", str(loop), str(point)], capture_output=True, check=False)
    if answer.returncode:
        pytest.skip("can't mount here")
    yield loop
    subprocess.run(["umount", str(point)], check=False)


def test_a_mounted_device_is_refused(mounted: Path, trace: Path, quick: Quick) -> None:
    """Whatever was allowed: it is mounted, and the message says where."""
    spec = file_target(mounted, allow_destroy=str(mounted), allow_signature=("ext4",))
    error = refuse(trace, spec, quick(), "is mounted")
    assert "/point" in str(error)


@pytest.mark.slow
def test_a_missing_or_undecided_blkid_is_refused(
    loop_device: MakeLoop, trace: Path, quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who can't tell whether there is a signature doesn't write."""
    loop = loop_device()
    before = digest(loop)
    spec = file_target(loop, allow_destroy=str(loop))
    monkeypatch.setattr(signatures.shutil, "which", lambda *_, **__: None)
    refuse(trace, spec, quick(), "blkid isn't there")
    monkeypatch.undo()

    def ambivalent(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 8, "", "")

    monkeypatch.setattr(signatures.subprocess, "run", ambivalent)
    refuse(trace, spec, quick(), "conflicting signatures")
    monkeypatch.undo()
    assert digest(loop) == before


def test_a_held_device_is_refused(
    loop_device: MakeLoop, trace: Path, quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that others are built on (LVM, md, dm) names them."""
    loop = loop_device()
    monkeypatch.setattr(device, "holders", lambda sysfs: ("dm-0",))
    spec = file_target(loop, allow_destroy=str(loop))
    refuse(trace, spec, quick(), "used by other devices.*dm-0")


@pytest.mark.slow
def test_a_device_opened_exclusively_by_another_is_refused(
    loop_device: MakeLoop, trace: Path, quick: Quick
) -> None:
    """O_EXCL: whoever else claims the device keeps it."""
    loop = loop_device()
    before = digest(loop)
    claim = os.open(loop, os.O_RDWR | os.O_EXCL)
    try:
        spec = file_target(loop, allow_destroy=str(loop))
        refuse(trace, spec, quick(), "can't open.*busy")
    finally:
        os.close(claim)
    assert digest(loop) == before


@pytest.mark.slow
def test_a_read_only_device_is_refused(loop_device: MakeLoop, trace: Path, quick: Quick) -> None:
    """The kernel's read-only flag is respected before anything else."""
    loop = loop_device(read_only=True)
    spec = file_target(loop, allow_destroy=str(loop))
    refuse(trace, spec, quick(), "is read-only")


def test_a_device_that_changed_since_it_was_looked_at_is_refused(
    loop_device: MakeLoop, trace: Path, quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Number, size and identity are compared again on the opened descriptor."""
    loop = loop_device()
    before = digest(loop)
    sizes = iter([64 * MIB] + [32 * MIB] * 9)
    monkeypatch.setattr(identity, "block_size_bytes", lambda _: next(sizes))
    spec = file_target(loop, allow_destroy=str(loop))
    refuse(trace, spec, quick(), "changed while it was being checked.*33554432, was 67108864")
    assert digest(loop) == before


@pytest.mark.slow
def test_a_run_that_only_reads_asks_for_nothing(
    loop_device: MakeLoop, quick: Quick, tmp_path: Path
) -> None:
    """Reads with --populate none: no identity needed, O_RDONLY, not a byte changed."""
    rows: list[Row] = [(i, Op.READ, Tier.NVME, i, Phase.DECODE, 4096) for i in range(4)]
    reading = write_trace(tmp_path / "reads.parquet", rows)
    loop = loop_device(prepare=make_ext4)
    before = digest(loop)
    result = replay.run(reading, [file_target(loop)], quick(populate="none"))
    assert result.ops == 4
    assert digest(loop) == before


@pytest.mark.slow
def test_a_device_too_small_for_the_live_set_is_refused(
    loop_device: MakeLoop, quick: Quick, tmp_path: Path
) -> None:
    """The figures are in the message and nothing is written."""
    rows: list[Row] = [(i, Op.WRITE, Tier.NVME, i, Phase.PREFILL, 4 * MIB) for i in range(16)]
    big = write_trace(tmp_path / "big.parquet", rows)
    loop = loop_device()
    before = digest(loop)
    spec = file_target(loop, allow_destroy=str(loop))
    refuse(big, spec, quick(), r"smaller than.*63\.00 MiB for.*live at most 64\.00 MiB")
    assert digest(loop) == before
