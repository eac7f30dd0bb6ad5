"""A poor environment costs no result: one clear line, the right exit code, nothing half written."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.command import apart
from tests.support.commands import MAKINGS, REPLAY, inputs, make, whole
from tests.support.digests import drafts, states

if TYPE_CHECKING:
    from collections.abc import Iterator

root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
QUICK = ("record directory", "record CSV")
ALL = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MAKINGS]


@contextmanager
def limited(kind: int, limit: int) -> Iterator[None]:
    """Lower a limit of this process for a while."""
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


@pytest.fixture(params=["tmpfs", "ext4"])
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of a few hundred KiB, of which nearly all is taken."""
    place = tmp_path / "disk"
    place.mkdir()
    image = tmp_path / "image"
    if request.param == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(place)]
    else:
        with image.open("wb") as file:
            file.truncate(1 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", str(image)], check=True)
        command = ["mount", "-o", "loop", str(image), str(place)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        pytest.skip(f"no {request.param} can be mounted: {ended.stderr.strip()}")
    try:
        fill(place / "filling")
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(path: Path) -> None:
    """Leave no block of a file system free."""
    with path.open("wb", buffering=0) as file:
        for size in (4096, 512, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


@pytest.mark.slow
@root
@pytest.mark.parametrize("name", ALL)
def test_a_full_disk_is_never_a_success(small_disk: Path, name: str) -> None:
    """Exit 4, one line, and neither the output nor a draft is there."""
    make(name, small_disk.parent / f"first-{MAKINGS[name].name}")
    out = small_disk / MAKINGS[name].name
    assert make(name, out) == 4
    assert "can't write: No space left" in make.error  # type: ignore[attr-defined]
    assert [path.name for path in small_disk.iterdir() if path.name != "lost+found"] == ["filling"]


@root
@pytest.mark.slow
@pytest.mark.parametrize("kib", [4, 8, 12, 16, 24, 32, 48])
def test_a_disk_that_fills_up_is_never_a_success(small_disk: Path, kib: int) -> None:
    """Wherever the space ends, outputs are whole or not there, and the exit code says which."""
    for name in QUICK:
        with (small_disk / "filling").open("r+b") as file:
            file.truncate(max(0, (small_disk / "filling").stat().st_size - (kib << 10)))
        out = small_disk / MAKINGS[name].name
        if make(name, out) == 0:
            assert whole(out)
        else:
            assert not out.exists()
        assert not drafts(small_disk)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0, 100, 1000])
@pytest.mark.parametrize("name", ALL)
def test_a_limit_on_file_sizes(tmp_path: Path, name: str, limit: int) -> None:
    """A file that may not grow is no success, and nothing is left of it."""
    make(name, tmp_path / f"first-{MAKINGS[name].name}")
    before = states(tmp_path)
    out = tmp_path / MAKINGS[name].name
    with limited(resource.RLIMIT_FSIZE, limit):
        code = make(name, out)
    if code == 0 and limit:  # it is smaller than that
        assert whole(out)
    else:
        assert code == 4, make.error  # type: ignore[attr-defined]
        assert "File too large" in make.error  # type: ignore[attr-defined]
        assert states(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize("files", [6, 10, 14])
@pytest.mark.parametrize(
    "name", ["record directory", "export fio", "replay report", "replay trace"]
)
def test_a_limit_on_open_files(tmp_path: Path, name: str, files: int) -> None:
    """Too few descriptors: one line and exit 4, or a whole output."""
    out = tmp_path / MAKINGS[name].name
    limit = ("prlimit", f"--nofile={files}:{files}")
    ended = apart(*MAKINGS[name].words(inputs(), out), shell=limit)
    if files >= 10:
        refused_or_whole(ended.code, ended.err, out)
    assert not drafts(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("mib", [1024, 4096])
def test_a_limit_on_address_space(tmp_path: Path, mib: int) -> None:
    """Too little address space: one line and exit 4, or a whole output."""
    for name in ("record", "replay report"):
        out = tmp_path / MAKINGS[name].name
        limit = ("prlimit", f"--as={mib << 20}")
        ended = apart(*MAKINGS[name].words(inputs(), out), shell=limit)
        refused_or_whole(ended.code, ended.err, out)


_AS_NOBODY = (
    "import os, resource, sys; n = int(sys.argv[1]); os.setresuid(65534, 0, 0); "
    "resource.setrlimit(resource.RLIMIT_NPROC, (n, n)); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)


@root
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
@pytest.mark.parametrize("processes", [1, 8])
def test_a_limit_on_processes(tmp_path: Path, processes: int) -> None:
    """Too few threads: one line and exit 4, or a whole output."""
    tmp_path.chmod(0o777)
    shell = ("setpriv", "--bounding-set=-sys_resource,-sys_admin", sys.executable, "-c",
             _AS_NOBODY, str(processes))  # fmt: skip
    for name in ("record", "replay report"):
        out = tmp_path / MAKINGS[name].name
        ended = apart(*MAKINGS[name].words(inputs(), out), shell=shell)
        refused_or_whole(ended.code, ended.err, out)


def refused_or_whole(code: int, told: str, out: Path) -> None:
    """Fail unless a command has said in one line what it lacked, or made its output."""
    if code in (0, 5):
        assert whole(out)
        return
    assert code == 4, told
    assert len([line for line in told.splitlines() if "error:" in line]) == 1, told
    assert "Traceback" not in told
    assert not out.exists()


STREAMS = {
    "output closed": (">&-", 0),
    "error closed": ("2>&-", 0),
    "all closed": ("<&- >&- 2>&-", 0),
    "output full": (">/dev/full", 4),
    "error full": ("2>/dev/full", 0),
    "reader gone": ("| true", 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", STREAMS)
def test_streams_cost_no_result(tmp_path: Path, how: str) -> None:
    """Whatever becomes of what is printed, the output is whole, and the exit code right."""
    redirected, expected = STREAMS[how]
    report = tmp_path / "r.json"
    command = '"$@" ' + redirected + "; exit ${PIPESTATUS[0]}"
    shell = ("bash", "-c", command, "bash")
    ended = apart("replay", inputs() / "t.parquet", *REPLAY, "--report", report, shell=shell)
    assert ended.code == expected
    assert whole(report)
    ended = apart("info", tmp_path / "none.parquet", shell=shell)
    assert ended.code == 3
    long = (*REPLAY[:6], "--min-window", "1h", "--mode", "max")
    ended = apart("replay", inputs() / "t.parquet", *long, shell=shell)
    assert ended.code == 5


@pytest.mark.slow
def test_a_working_directory_that_is_gone(tmp_path: Path) -> None:
    """Absolute names work; relative ones are one line."""
    shell = ("bash", "-c", 'mkdir gone; cd gone; rmdir ../gone; exec "$@"', "bash")
    for name in ("record directory", "replay report"):
        out = tmp_path / MAKINGS[name].name
        words = MAKINGS[name].words(inputs(), out)
        ended = apart(*words, shell=shell, cwd=tmp_path)
        assert ended.code == 0, ended.err
        assert whole(out)
        words = MAKINGS[name].words(inputs(), Path("relative") / MAKINGS[name].name)
        ended = apart(*words, shell=shell, cwd=tmp_path)
        assert ended.code == 4
        assert "Traceback" not in ended.err


@pytest.mark.slow
@pytest.mark.parametrize("home", [None, "/proc"])
def test_no_home(tmp_path: Path, home: str | None) -> None:
    """Without a home, or with one that can't be written, nothing is lost, and none is made."""
    environment = {
        name: value for name, value in os.environ.items()
        if name not in ("HOME", "TMPDIR", "XDG_CACHE_HOME")
    }  # fmt: skip
    if home is not None:
        environment["HOME"] = home
    words = ("replay", inputs() / "t.parquet", *REPLAY, "--report", tmp_path / "r.html")
    ended = apart(*words, env=environment, cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]
