"""Only our files: no command opens, follows, replaces or removes what another has made."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kvtrace.errors import TargetError
from kvtrace.files import drafts
from kvtrace.files.outputs import Reservation
from kvtrace.trace.reader import open_trace
from tests.support.command import kvtrace
from tests.support.commands import MAKINGS, REPLAY, inputs, make, whole
from tests.support.digests import drafts as left
from tests.support.digests import state, states

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow

ALL = list(MAKINGS)
_BESIDE = ("{}.partial", "{}.new", ".{}.partial", ".{}.new", "{}.parts", "{}.tmp")
"""Names that temporaries have had."""


def symlink(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def hard_link(path: Path, victim: Path) -> None:
    path.hardlink_to(victim)


def fifo(path: Path, victim: Path) -> None:
    os.mkfifo(path)


def folder(path: Path, victim: Path) -> None:
    path.mkdir()
    (path / "part-00000.parquet").hardlink_to(victim)


def linked_folder(path: Path, victim: Path) -> None:
    other = path.with_name(f"of {path.name}")
    folder(other, victim)
    path.symlink_to(other)


@pytest.mark.parametrize("name", ALL)
def test_nothing_beside_an_output_is_touched(tmp_path: Path, name: str) -> None:
    """Links, FIFOs and folders under every name that a temporary has had stay as they are."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious" * 1000)
    out = tmp_path / MAKINGS[name].name
    kinds = [symlink, hard_link, fifo, folder, linked_folder]
    for at, form in enumerate(_BESIDE):
        kinds[at % len(kinds)](tmp_path / form.format(out.name), victim)
    before = states(tmp_path)
    for force in ((), ("--force",)):
        assert make(name, out, *force) == 0, make.error  # type: ignore[attr-defined]
        assert whole(out)
        assert {path: state(path) for path in before} == before
    assert set(left(tmp_path)) == {path.name for path in before if path.name.startswith(".")}


@pytest.mark.parametrize("name", ALL)
def test_a_file_that_appears_is_kept(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What gets the output's name while a command runs stays; the output is kept beside it."""
    out = tmp_path / MAKINGS[name].name
    publish = drafts._publish

    def late(place: Path, path: Path, *, replace: bool) -> None:
        if path == out:
            path.write_bytes(b"someone else's")
        publish(place, path, replace=replace)

    monkeypatch.setattr(drafts, "_publish", late)
    assert make(name, out) == 4
    assert "appeared while this command ran" in make.error  # type: ignore[attr-defined]
    assert out.read_bytes() == b"someone else's"
    (draft,) = drafts.drafts_of(out)
    kept = tmp_path / f"kept{out.suffix}"
    draft.rename(kept)
    assert whole(kept)


def socket_at(path: Path, victim: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def device_node(path: Path, victim: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("making device nodes needs root")
    os.mknod(path, 0o20600, os.makedev(1, 3))


@pytest.mark.parametrize("name", ["record", "record directory", "record CSV", "replay report"])
@pytest.mark.parametrize("kind", [symlink, fifo, socket_at, device_node, folder, linked_folder])
def test_an_output_is_a_regular_file(
    tmp_path: Path, name: str, kind: Callable[[Path, Path], None]
) -> None:
    """Links, FIFOs, sockets, devices and directories are refused, with `--force` too."""
    victim, out = tmp_path / "victim", tmp_path / MAKINGS[name].name
    victim.write_bytes(b"precious" * 1000)
    kind(out, victim)
    before = states(tmp_path)
    for force in ((), ("--force",)):
        assert make(name, out, *force) == 4
        assert len(make.error.splitlines()) == 1  # type: ignore[attr-defined]
        assert states(tmp_path) == before


def test_standard_output_is_no_file(tmp_path: Path) -> None:
    """`/dev/stdout` is a link to what the shell has opened: refused."""
    ended = kvtrace("recover", inputs() / "r.parquet.parts", "/dev/stdout", "--force")
    assert (ended.code, "is a symbolic link" in ended.error) == (4, True)


@pytest.mark.parametrize(
    "foreign", ["my_own.parquet", "part-00001.parquet", "notes.txt", ".hidden"]
)
def test_a_trace_folder_with_other_files_is_refused(tmp_path: Path, foreign: str) -> None:
    """`--force` replaces a directory only if nothing but a trace's files is in it."""
    out = tmp_path / "t"
    assert make("record directory", out) == 0
    name = f"sub/{foreign}" if foreign == "notes.txt" else foreign
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_bytes(b"mine")
    if foreign == "part-00001.parquet":
        (out / name).unlink()
        (out / name).symlink_to(inputs() / "t.parquet")
    before = states(tmp_path)
    assert make("record directory", out, "--force") == 4
    assert states(tmp_path) == before


def test_the_old_trace_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    """A recording that fails at its end, or meets a new file in the old trace, changes nothing."""
    out = tmp_path / "t"
    assert make("record directory", out) == 0
    before = states(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drafts.DraftFolder, "publish", _no_space)
        assert make("record directory", out, "--force") == 4
    assert states(tmp_path) == before
    exchange = drafts._exchange
    with pytest.MonkeyPatch.context() as patch:

        def late(place: Path, path: Path) -> None:
            for folder in (place, path):
                if (folder / "mine").exists():
                    exchange(place, path)
                    return
            (path / "mine").write_bytes(b"mine")
            exchange(place, path)

        patch.setattr(drafts, "_exchange", late)
        assert make("record directory", out, "--force") == 4
    (out / "mine").unlink()
    assert states(tmp_path) == before


def _no_space(_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("links", [True, False])
def test_file_systems_without_renameat2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Where names can't be exchanged at once, nothing is replaced either but what was asked."""

    def unsupported(*_: Any) -> None:
        number = errno.EINVAL if links else errno.EPERM
        raise OSError(number, os.strerror(number))

    if not links:
        monkeypatch.setattr(drafts, "_UNSUPPORTED", (errno.EPERM,))
        monkeypatch.setattr(Path, "hardlink_to", unsupported)
    monkeypatch.setattr(drafts, "_renameat2", unsupported)
    for name in ("slice", "record directory"):
        out = tmp_path / MAKINGS[name].name
        assert make(name, out) == 0
        assert whole(out)
        assert make(name, out) == 4
        assert make(name, out, "--force") == 0
        assert whole(out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t", "t.parquet"]
    draft = drafts.Draft(tmp_path / "x")
    (tmp_path / "x").write_bytes(b"late")
    with pytest.raises(TargetError, match="appeared"):
        draft.publish()
    assert (tmp_path / "x").read_bytes() == b"late"


def test_a_trace_may_have_any_name(tmp_path: Path) -> None:
    """A trace that is called as a temporary once was is not removed by its replay."""
    trace = tmp_path / "r.json.partial"
    trace.write_bytes((inputs() / "t.parquet").read_bytes())
    before = state(trace)
    ended = kvtrace("replay", trace, *REPLAY, "--report", tmp_path / "r.json")
    assert ended.code in (0, 5), ended.err
    assert state(trace) == before
    device = tmp_path / "d.json.partial"
    words = ("--device", device, "--size", "64MiB", *REPLAY[2:], "--report", tmp_path / "d.json")
    ended = kvtrace("replay", inputs() / "t.parquet", *words)
    if "direct I/O" not in ended.err:
        assert ended.code in (0, 5), ended.err
        assert device.stat().st_size == 64 << 20


@pytest.mark.parametrize("kind", [symlink, hard_link, fifo])
def test_a_folder_of_objects_has_other_files(
    tmp_path: Path, kind: Callable[[Path, Path], None]
) -> None:
    """What lies under the names that marker and probe once had stays, whatever it is."""
    victim, place = tmp_path / "victim", tmp_path / "kv"
    victim.write_bytes(b"precious" * 1000)
    words = ("replay", inputs() / "t.parquet", "--dir", place, *REPLAY[2:])
    if "direct I/O" in kvtrace(*words).err:
        pytest.skip("no direct I/O where pytest keeps its files; set --basetemp")
    ours = {path.name for path in place.iterdir()}
    for name in (".kvtrace.tmp", ".kvtrace.probe"):
        kind(place / name, victim)
    before = {path: state(path) for path in (victim, *place.glob(".kvtrace.*"))}
    ended = kvtrace(*words)
    assert ended.code in (0, 5), ended.err
    assert {path: state(path) for path in before} == before
    assert {path.name for path in place.iterdir()} == ours | {".kvtrace.tmp", ".kvtrace.probe"}


HOLD = """
import sys, time
from pathlib import Path
from kvtrace.files.outputs import Reservation
Reservation(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("name", ["record directory", "replay report", "replay trace", "export"])
def test_an_output_has_one_writer(tmp_path: Path, name: str) -> None:
    """A second command is refused before it starts; a killed one blocks no other."""
    out = tmp_path / MAKINGS[name].name
    command = [sys.executable, "-c", HOLD, str(out.parent / "." / out.name)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path.cwd()) as holding:
        assert holding.stdout is not None
        assert holding.stdout.readline() == b"held\n"
        assert make(name, out, "--force") == 4
        assert "is being written by another process" in make.error  # type: ignore[attr-defined]
        assert not list(tmp_path.iterdir())
        holding.kill()
    assert make(name, out) == 0
    assert whole(out)


def test_a_reservation_is_counted(tmp_path: Path) -> None:
    """One process may hold an output twice, and other names are free."""
    one, two = Reservation(tmp_path / "a"), Reservation(tmp_path / "a")
    one.close()
    one.close()
    assert Reservation._held
    two.close()
    assert not Reservation._held


def test_one_failed_report_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result trace and the other reports are written; the exit code and line name the one."""
    from replay.report import csv

    monkeypatch.setattr(csv, "write", lambda *_: _no_space(None))
    outs = [tmp_path / name for name in ("r.csv", "r.json", "r.html")]
    words = [word for out in outs for word in ("--report", out)]
    ended = kvtrace(
        "replay", inputs() / "t.parquet", *REPLAY, *words, "--out", tmp_path / "r.parquet"
    )
    assert ended.code == 4
    assert ended.error.startswith(f"kvtrace: error: {outs[0]}: can't write: No space left")
    assert ended.out
    assert not outs[0].exists()
    assert all(whole(path) for path in (*outs[1:], tmp_path / "r.parquet"))
    ended = kvtrace(
        "report", outs[1], "--report", tmp_path / "s.csv", "--report", tmp_path / "s.html"
    )
    assert ended.code == 4
    assert whole(tmp_path / "s.html")
    assert not left(tmp_path)


def test_a_result_trace_that_fails_costs_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that can't be written ends neither the run nor its reports."""
    from replay.execution import output

    def full(_: object) -> None:
        raise TargetError("can't write: No space left on device", where="part")

    monkeypatch.setattr(output, "_FLUSH_NS", 0)
    monkeypatch.setattr(output.ResultTrace, "_flush", full)
    report, out = tmp_path / "r.json", tmp_path / "r.parquet"
    ended = kvtrace("replay", inputs() / "t.parquet", *REPLAY, "--report", report, "--out", out)
    assert (ended.code, "No space left" in ended.error) == (4, True)
    assert whole(report)
    assert not out.exists()
    assert not left(tmp_path)


def test_scaling_beyond_what_a_clock_holds_is_refused(tmp_path: Path) -> None:
    """Times that overflow are refused; what is written can be read."""
    long = tmp_path / "long.parquet"
    ended = kvtrace("scale", inputs() / "t.parquet", long, "--time", "1000")
    assert ended.code == 0
    for number in range(7):
        out = tmp_path / f"{number}.parquet"
        ended = kvtrace("scale", long, out, "--time", "1000")
        if ended.code:
            assert (ended.code, "too long" in ended.error) == (2, True)
            assert not out.exists()
            break
        assert kvtrace("info", out).code == 0
        long = out
    else:
        raise AssertionError("never refused")
    with open_trace(long) as trace:
        assert trace.header.totals.duration_ns < 1 << 62
