"""A device is full of unique data afterwards, its marker says so, and nothing unsafe is touched."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import signal
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from kvtrace.cli.precondition import precondition_command
from kvtrace.cli.running import Shown
from kvtrace.errors import KvtraceError, TargetError, UsageError
from kvtrace.placement.extents import RESERVED_BYTES
from kvtrace.trace.schema import Tier
from replay import engine as engines
from replay import targets
from replay.ops.columns import INTERRUPTED
from replay.ops.contract import Outcome
from replay.payload import stamps as payload
from replay.payload.reduction import measure_sample
from replay.safety import preflight
from replay.safety.marker import Marker, Preconditioned
from replay.state.precondition import Preconditioning, PreconditionOptions, precondition
from replay.targets import RunMark, TargetSpec
from replay.watch import Silent, Stop

MIB = 1 << 20
KIB = 1 << 10
MakeLoop = Callable[..., Path]
UINT64_MAX = (1 << 64) - 1


def spec(path: Path, **fields: Any) -> TargetSpec:
    """Return the spec of a file target."""
    return TargetSpec("file", (Tier.NVME,), path, **fields)


def quick(**fields: Any) -> PreconditionOptions:
    """Options for a small target: an arena above what is written in a pass, a known run id."""
    return PreconditionOptions(**({"arena_bytes": 32 * MIB, "run_id": 7} | fields))


def contents(path: Path) -> np.ndarray:
    """Return what is behind the marker."""
    return np.fromfile(path, np.uint8)[RESERVED_BYTES:]


def expected_stamps(size: int, generation: int) -> np.ndarray:
    """Return the stamp of every sector behind the marker."""
    first = RESERVED_BYTES // 512
    return payload.stamps(UINT64_MAX, first, generation, 7, size)


CASES = [
    *((engine, *case) for engine in ("uring", "threads") for case in ((2, 128 * KIB), (3, MIB))),
    ("python", 1, MIB),
]


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "passes", "io_size"), CASES)
def test_every_sector_is_written_in_every_pass(
    direct_path: Path, engine: str, passes: int, io_size: int
) -> None:
    """Each sector of the span carries a stamp of this run and of the last pass; none is equal."""
    if entry := next(e for e in engines.availability() if e.name == engine).reason:
        pytest.skip(entry)
    path = direct_path / "target"
    size = 8 * MIB + 20 * KIB  # ends within an I/O
    options = quick(passes=passes, io_size_bytes=io_size, engine=engine)
    done = precondition(spec(path, size_bytes=size), options)
    data = contents(path)
    assert len(data) == size - RESERVED_BYTES == done.span_bytes
    # A steady rate may end it after the second pass.
    assert done.passes in range(min(passes, 2), passes + 1)
    assert (payload.sectors(data) == expected_stamps(len(data), done.passes - 1)).all()
    assert measure_sample([data]).dedup_512_ratio == 1
    assert done.written_bytes == done.passes * done.span_bytes
    assert sum(window.bytes for window in done.windows) == done.written_bytes
    assert done.engine == engine
    assert not done.interrupted


@pytest.mark.slow
def test_a_device_is_filled_to_its_end(loop_device: MakeLoop) -> None:
    """A block device that its identity allows: all of it behind the marker."""
    loop = loop_device(16 * MIB)
    done = precondition(spec(loop, allow_destroy=str(loop)), quick())
    data = contents(loop)
    assert len(data) == 15 * MIB == done.span_bytes
    assert (payload.sectors(data) == expected_stamps(len(data), 1)).all()
    found = preflight.look(loop).marker
    assert found is not None
    assert found.preconditioned is not None


@pytest.mark.slow
def test_only_the_part_that_was_asked_for_is_filled(loop_device: MakeLoop) -> None:
    """With a size the rest of a device keeps its bytes, and the marker says where it ends."""
    loop = loop_device(16 * MIB)
    done = precondition(spec(loop, allow_destroy=str(loop), size_bytes=8 * MIB), quick())
    data = np.fromfile(loop, np.uint8)
    assert payload.sectors(data[RESERVED_BYTES : 8 * MIB])[:, 0].all()
    assert not data[8 * MIB :].any()
    found = preflight.look(loop).marker
    assert found is not None
    assert found.preconditioned is not None
    assert found.preconditioned.end_bytes == 8 * MIB == done.end_bytes


@pytest.mark.slow
def test_a_run_id_repeats_bytes_and_order(direct_path: Path) -> None:
    """The same run id leaves the same bytes, another one others."""
    one, same, other = (direct_path / name for name in ("one", "same", "other"))
    for path, run_id in ((one, 3), (same, 3), (other, 4)):
        precondition(spec(path, size_bytes=4 * MIB), quick(run_id=run_id))
    assert (contents(one) == contents(same)).all()
    assert (contents(one) != contents(other)).any()


@pytest.mark.slow
def test_the_marker_says_what_was_done(direct_path: Path) -> None:
    """When, how many passes, steady or not; a later run keeps that, and needs no first write."""
    path = direct_path / "target"
    done = precondition(spec(path, size_bytes=8 * MIB), quick())
    marker = preflight.look(path).marker
    assert marker is not None
    state = marker.preconditioned
    assert state is not None
    assert (state.passes, state.steady, state.end_bytes) == (2, done.steady, 8 * MIB)
    assert state.at_s > 1_700_000_000
    target = targets.make(spec(path))
    target.authorise(writes=True)
    target.open(target.space(), RunMark(9, "f" * 64), writes=True)
    assert target.unwritten(8 * MIB) is None
    target.close()
    later = preflight.look(path).marker
    assert later is not None
    assert later.run_id == 9
    assert later.preconditioned == state


def test_older_markers_are_read() -> None:
    """A marker of version 1 says nothing of the state; one of a version to come isn't ours."""
    marker = Marker(1, "a" * 64, 4096, MIB, 9 * MIB, 4 * MIB, version=1)
    block = marker.pack().replace(b', "preconditioned": null', b"")
    # The checksum and length are of the text that was there: make them new.
    text = block[block.index(b"{") : block.rindex(b"}") + 1]
    head = block[: block.index(b"{") - 8]
    crc = zlib.crc32(text).to_bytes(4, "little")
    old = (head + crc + len(text).to_bytes(4, "little") + text).ljust(4096, b"\0")
    found = Marker.unpack(old)
    assert found is not None
    assert (found.run_id, found.written_bytes, found.preconditioned) == (1, 4 * MIB, None)
    state = Preconditioned(1, 9 * MIB, 2, True)
    new = Marker(1, "a" * 64, 4096, MIB, 9 * MIB, 4 * MIB, state)
    assert Marker.unpack(new.pack()) == new
    assert Marker.unpack(Marker(1, "a", 4096, MIB, MIB, 0, version=3).pack()) is None


class StopsAt:
    """Stops in the middle of a pass."""

    def __init__(self, stop: Stop, stage: int) -> None:
        self.stop, self.stages, self.stage_wanted = stop, 0, stage

    def say(self, text: str) -> None:
        """Drop it."""

    def stage(self, name: str, total: int | None) -> None:
        """Count passes."""
        self.stages += 1

    def advance(self, done: int) -> None:
        """Stop in the wanted pass, once it has written: the first look may come before that."""
        if done and self.stages == self.stage_wanted:
            self.stop.set()


def stopped(path: Path, stage: int) -> Preconditioning:
    """Return what was done when it was stopped in that pass; many slices go into a pass."""
    stop = Stop()
    options = quick(io_size_bytes=64 * KIB, passes=3)
    return precondition(
        spec(path, size_bytes=16 * MIB), options, watcher=StopsAt(stop, stage), stop=stop
    )


def test_a_stop_ends_it_in_good_order(direct_path: Path) -> None:
    """What was in flight is counted, the marker doesn't claim a state, the file stays ours."""
    path = direct_path / "target"
    done = stopped(path, 1)
    assert done.interrupted
    assert done.passes == 0
    assert 0 < done.written_bytes < done.span_bytes
    marker = preflight.look(path).marker
    assert marker is not None
    assert (marker.preconditioned, marker.written_bytes) == (None, 0)
    done = stopped(path, 2)
    assert done.interrupted
    assert done.passes == 1
    marker = preflight.look(path).marker
    assert marker is not None
    assert (marker.preconditioned, marker.written_bytes) == (None, 16 * MIB)


@pytest.mark.slow
def test_an_earlier_state_is_forgotten_first(direct_path: Path) -> None:
    """A stop in the middle leaves no claim of the time before."""
    path = direct_path / "target"
    precondition(spec(path, size_bytes=16 * MIB), quick())
    stopped(path, 1)
    marker = preflight.look(path).marker
    assert marker is not None
    assert marker.preconditioned is None


def test_a_stop_before_the_first_write_is_no_success(direct_path: Path) -> None:
    """Nothing was written, and it says so."""
    stop = Stop()
    stop.set()
    done = precondition(spec(direct_path / "t", size_bytes=4 * MIB), quick(), stop=stop)
    assert done.interrupted
    assert (done.passes, done.written_bytes, done.steady) == (0, 0, None)


class Fails:
    """An engine that writes nothing: its 20th op gets an error, or it just ends."""

    name = "fails"

    def __init__(self, error: int) -> None:
        self.error = error

    def run(self, lanes: Any, ops: Any, times: Any, options: Any, control: Any) -> Outcome:
        """Say that it was done."""
        times.error[:] = 0 if self.error > 0 else INTERRUPTED
        times.submit_ns[:] = times.complete_ns[:] = 1
        if self.error > 0:
            times.error[19] = self.error
        return Outcome(1, (), 0, 0)


@pytest.mark.parametrize(
    ("error", "match"),
    [(errno.EIO, r"can't write: Input/output error.*at byte 3538944"), (0, "wrote less than")],
)
def test_a_failed_write_is_an_error(
    direct_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, match: str
) -> None:
    """It ends with errno and offset; an engine that does nothing isn't believed."""
    monkeypatch.setattr(engines, "choose", lambda name: Fails(error))
    path = direct_path / "target"
    # A slice is a tenth of a pass at most.
    options = quick(io_size_bytes=128 * KIB)
    with pytest.raises(TargetError, match=match):
        precondition(spec(path, size_bytes=32 * MIB), options)
    marker = preflight.look(path).marker
    assert marker is not None
    assert marker.preconditioned is None


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"passes": 0}, "--passes.*accepted: 1 to 1000"),
        ({"queue_depth": 0}, "--queue-depth"),
        ({"io_size_bytes": 512}, "--io-size"),
        ({"io_size_bytes": 6000}, "--io-size: isn't a multiple"),
        ({"run_id": 65536}, "--run-id"),
        ({"engine": "warp"}, "unknown engine"),
        ({"arena_bytes": 4096}, "arena smaller"),
    ],
)
def test_wrong_options_are_refused(direct_path: Path, fields: dict[str, Any], match: str) -> None:
    """The message names the option, and no file appears."""
    path = direct_path / "target"
    with pytest.raises(UsageError, match=match):
        precondition(spec(path, size_bytes=4 * MIB), quick(**fields))
    assert not path.exists()


def test_a_new_file_needs_a_size(direct_path: Path) -> None:
    """Nobody can guess it."""
    with pytest.raises(UsageError, match=r"needs a size.*--size"):
        precondition(spec(direct_path / "target"), quick())
    with pytest.raises(TargetError, match="no room to write"):
        precondition(spec(direct_path / "target", size_bytes=MIB), quick())
    assert not (direct_path / "target").exists()


def test_what_has_no_state_is_refused() -> None:
    """Memory isn't preconditioned."""
    with pytest.raises(UsageError, match="has no state"):
        precondition(TargetSpec("memory", (Tier.CPU,), size_bytes=MIB), quick())


def digest(path: Path) -> str:
    """Return the sha256 of a file or device."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse(target: TargetSpec, match: str) -> None:
    """Expect a TargetError in one line, and not a byte changed."""
    assert target.path is not None
    before = digest(target.path)
    with pytest.raises(TargetError, match=match) as caught:
        precondition(target, quick())
    assert "\n" not in str(caught.value)
    assert digest(target.path) == before


def make_ext4(backing: Path) -> None:
    """Put a file system into a file."""
    subprocess.run(["mkfs.ext4", "-q", "-F", str(backing)], check=True)


def test_a_foreign_file_stays_as_it_is(direct_path: Path) -> None:
    """As in a replay: only new files and those with our header."""
    path = direct_path / "foreign"
    path.write_bytes(b"precious" * 1000)
    refuse(spec(path, size_bytes=4 * MIB), "wasn't made by kvtrace")


@pytest.mark.slow
def test_a_device_needs_its_identity(loop_device: MakeLoop) -> None:
    """As in a replay: none, or another's, isn't enough."""
    loop = loop_device(16 * MIB)
    refuse(spec(loop), "everything on it would be destroyed")
    refuse(spec(loop, allow_destroy="/dev/sda"), "everything on it would be destroyed")


@pytest.mark.slow
def test_a_signature_is_refused_unless_named(loop_device: MakeLoop) -> None:
    """As in a replay: a file system stays until its type is named."""
    loop = loop_device(16 * MIB, make_ext4)
    refuse(spec(loop, allow_destroy=str(loop)), "signature.*ext4")
    named = spec(loop, allow_destroy=str(loop), allow_signature=("ext4",))
    assert precondition(named, quick()).passes == 2


@pytest.mark.slow
def test_a_read_only_device_is_refused(loop_device: MakeLoop) -> None:
    """As in a replay."""
    loop = loop_device(16 * MIB, read_only=True)
    refuse(spec(loop, allow_destroy=str(loop)), "read-only")


def test_a_mounted_device_is_refused(loop_device: MakeLoop, tmp_path: Path) -> None:
    """As in a replay, whatever was allowed."""
    loop = loop_device(16 * MIB, make_ext4)
    point = tmp_path / "point"
    point.mkdir()
    if subprocess.run(["mount", "-o", "ro", str(loop), str(point)], check=False).returncode:
        pytest.skip("can't mount here")
    try:
        refuse(spec(loop, allow_destroy=str(loop), allow_signature=("ext4",)), "is mounted")
    finally:
        subprocess.run(["umount", str(point)], check=False)


@pytest.mark.slow
def test_a_device_that_another_claims_is_refused(loop_device: MakeLoop) -> None:
    """O_EXCL: whoever else claims it keeps it."""
    loop = loop_device(16 * MIB)
    claim = os.open(loop, os.O_RDWR | os.O_EXCL)
    try:
        refuse(spec(loop, allow_destroy=str(loop)), "can't open.*busy")
    finally:
        os.close(claim)


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run() -> Run:
    """Runs `precondition` with these arguments; gives exit code and output or error."""
    app = typer.Typer()
    app.command("precondition")(precondition_command)

    def call(*words: object) -> tuple[int, str]:
        found = CliRunner().invoke(app, ["--arena", "32MiB", *(str(word) for word in words)])
        if isinstance(found.exception, KvtraceError):
            return found.exception.exit_code, str(found.exception)
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        return found.exit_code, found.stdout

    return call


@pytest.mark.slow
def test_the_command_says_what_it_did(run: Run, direct_path: Path) -> None:
    """Passes, rates and steadiness on stdout; the report has them as numbers."""
    report = direct_path / "report.json"
    words = ("--device", direct_path / "t", "--size", "16MiB", "--report", report)
    code, text = run(*words)
    assert code == 0
    for word in ("pass 1", "sequential", "pass 2", "random", "GB/s", "steady", "2.00 ×"):
        assert word in text
    found = json.loads(report.read_text())
    assert found["written_bytes"] == 2 * 15 * MIB
    assert (found["passes"], found["interrupted"]) == (2, False)
    assert len(found["windows"]) == 20
    assert run(*words)[0] == 4  # the report is there
    code, text = run(*words, "--force", "--json")
    assert code == 0
    assert json.loads(text)["schema_version"] == 1


@pytest.mark.slow
def test_steadiness_can_be_required(run: Run, direct_path: Path) -> None:
    """One pass says nothing of it: asked for, that is no success."""
    words = ("--device", direct_path / "t", "--size", "4MiB", "--passes", 1)
    assert run(*words)[0] == 0
    code, text = run(*words, "--require-steady")
    assert code == 5
    assert "unknown" in text


def test_a_signal_ends_the_command_in_good_order(
    run: Run, direct_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGINT: exit 5, and how far it got."""
    raised: list[int] = []

    def advance(_: Shown, done: int) -> None:
        if not raised:  # a second signal would end the process
            raised.append(done)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Shown, "advance", advance)
    code, text = run("--device", direct_path / "t", "--size", "64MiB", "--io-size", "64KiB")
    assert code == 5
    assert "INTERRUPTED after 0 of 2 passes" in text


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("--size", "0"), "--size"),
        (("--size", "many"), "--size"),
        (("--size", "4MiB", "--report", "x.txt"), "x.txt.*accepted: .json"),
        (("--size", "4MiB", "--passes", "0"), "--passes"),
    ],
)
def test_wrong_words_are_usage_errors(
    run: Run, direct_path: Path, words: tuple[str, ...], match: str
) -> None:
    """Exit 2, one line, nothing made."""
    code, error = run("--device", direct_path / "t", *words)
    assert code == 2
    assert re.search(match, error)
    assert not (direct_path / "t").exists()


@pytest.mark.slow
def test_it_watches_itself_only_through_the_watcher(
    direct_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Called from Python it prints nothing."""
    precondition(spec(direct_path / "t", size_bytes=4 * MIB), quick(), watcher=Silent())
    assert capsys.readouterr() == ("", "")
