"""The recorder: what an engine sends is recorded or counted, and the engine isn't disturbed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from kvtrace.capture import moment, spool
from kvtrace.capture import recorder as recorders
from kvtrace.capture.errors import CaptureError
from kvtrace.capture.identity import Hasher, Names, as_bytes
from kvtrace.capture.recorder import Recorder, shared
from kvtrace.capture.settings import Settings
from kvtrace.capture.spool import UNKNOWN, UNKNOWN_RANK, Frame, Kind
from kvtrace.capture.table import task_of
from kvtrace.trace.schema import Op, Phase, Tier
from tests.support import captures, places

if TYPE_CHECKING:
    from pathlib import Path

    from kvtrace.capture.table import Task


def test_a_task_is_a_record_per_key(tmp_path: Path) -> None:
    """Each key has its record; the task's number and the place in it tell them together."""
    rec = captures.recorder(tmp_path)
    captures.send(rec, [b"a", b"b"], request="r1", rank=3)
    rec.task(Op.WRITE, Tier.CPU, Phase.PROMOTE, [1, 2], 9, [b"a", b"c"], [7, 8], [0, errno.EEXIST])
    rec.close()
    rows = captures.records(tmp_path)
    hashed = Hasher(b"s")
    a, b, c = (hashed(b"k", key) for key in (b"a", b"b", b"c"))
    assert rows["key"].tolist() == [a, b, a, c]
    assert rows["submit"].tolist() == [10, 10, 1, 2]
    assert rows["complete"].tolist() == [15, 15, 9, 9]
    assert rows["size"].tolist() == [100, 100, 7, 8]
    assert rows["error"].tolist() == [0, 0, 0, errno.EEXIST]
    assert rows["batch"].tolist() == [0, 0, 1, 1]
    assert rows["position"].tolist() == [0, 1, 0, 1]
    assert rows["request"].tolist() == [hashed(b"r", b"r1")] * 2 + [UNKNOWN] * 2
    assert rows["rank"].tolist() == [3, 3, UNKNOWN_RANK, UNKNOWN_RANK]
    assert rows["block"].tolist() == [UNKNOWN] * 4
    assert [rows[name].tolist() for name in ("op", "tier", "phase")] == [
        [Op.READ] * 2 + [Op.WRITE] * 2,
        [Tier.NVME] * 2 + [Tier.CPU] * 2,
        [Phase.DECODE] * 2 + [Phase.PROMOTE] * 2,
    ]


def test_an_adapter_names_keys(tmp_path: Path) -> None:
    """Its functions make key, block and rank of the engine's own objects; a join the request."""
    names = Names(lambda key: b"%s/%d" % key, lambda key: key[0], lambda key: key[1])
    rec = captures.recorder(tmp_path, recording={"names": names})
    rec.join_by(lambda keys: f"of {keys[0][0]!r}")
    captures.send(rec, [(b"a", 1), (b"a", 2)])
    captures.send(rec, [(b"z", 5)], request="told", block=["named"])
    rec.task(Op.DELETE, Tier.NVME, Phase.EVICT, 1, 2, [(b"a", 1)], 0)
    rec.close()
    rows, hashed = captures.records(tmp_path), Hasher(b"s")
    assert rows["key"].tolist() == [hashed(b"k", raw) for raw in (b"a/1", b"a/2", b"z/5", b"a/1")]
    assert rows["block"].tolist() == [hashed(b"b", block) for block in (b"a", b"a", b"named", b"a")]
    assert rows["rank"].tolist() == [1, 2, 5, 1]
    asked = hashed(b"r", b"of b'a'")
    assert rows["request"].tolist() == [asked, asked, hashed(b"r", b"told"), UNKNOWN]


def test_tasks_may_be_made_by_the_writer(tmp_path: Path) -> None:
    """What is costly to look at becomes tasks in the writer's thread, or is counted."""
    rec = captures.recorder(tmp_path, recording={"names": Names(as_bytes, fields=str)})

    def expand(subject: list[bytes]) -> list[Task]:
        places = rec.identities.places(subject)
        return [task_of(Op.WRITE, Tier.CPU, Phase.PREFILL, 1, 2, places, 9, rank=4)]

    rec.defer(expand, [b"a", b"b"], [b"a", b"b"])
    rec.defer(expand, [b"c"] * 3, None)
    rec.at_end(bus_dropped=lambda: 7)
    rec.close()
    rec.defer(expand, [b"d"], [b"d"])
    rows = captures.records(tmp_path)
    (end,) = captures.documents(tmp_path, Kind.END)
    assert rows["key"].tolist() == [Hasher(b"s")(b"k", key) for key in (b"a", b"b")]
    assert rows["rank"].tolist() == [4, 4]
    assert (end["dropped_rows"], end["bus_dropped"], rec.dropped) == (3, 7, 4)
    assert end["guarded_errors"] == {"expand": 1}


def test_requests_are_joined_in_order(tmp_path: Path) -> None:
    """A task belongs to the request that asked before it, not to a later one for the same key."""
    rec, asked = captures.recorder(tmp_path, flush_s=5.0), dict[bytes, str]()
    rec.join_by(lambda keys: asked.get(keys[-1]))

    def ask(request: str) -> list[Task]:
        asked[b"a"] = request
        if request == "r2":
            asked[b"late"] = request
        return []

    rec.defer(ask, [], "r1")
    captures.send(rec, [b"a"])
    captures.send(rec, [b"late"])
    rec.defer(ask, [], "r2")
    captures.send(rec, [b"a"])
    captures.send(rec, [b"other"])
    rec.close()
    known = [Hasher(b"s")(b"r", request) for request in (b"r1", b"r2", b"r2")]
    assert captures.records(tmp_path)["request"].tolist() == [*known, UNKNOWN]


def test_results_are_expanded_by_the_writer(tmp_path: Path) -> None:
    """An object with `expand` is looked at in the writer's thread, not in the engine's."""

    class Bitmap:
        def expand(self, count: int) -> list[int]:
            self.thread = threading.current_thread().name
            return [errno.ENOENT] * count

    rec, bitmap = captures.recorder(tmp_path), Bitmap()
    captures.send(rec, [b"a", b"b"], errors=bitmap)
    rec.close()
    assert captures.records(tmp_path)["error"].tolist() == [errno.ENOENT] * 2
    assert bitmap.thread == "kvtrace-capture"


def test_a_task_that_cannot_be_read_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It alone is lost: counted, in a gap and at the end, told once; its neighbours are there."""
    rec = captures.recorder(tmp_path, flush_s=5.0)
    for key in (b"a", b"b", b"c"):
        captures.send(rec, [key, b"x"], size=[1] if key == b"b" else 1)
    captures.send(rec, [b"d"], size="large")
    captures.send(rec, 5)
    rec.close()
    assert len(captures.records(tmp_path)) == 4
    (end,) = captures.documents(tmp_path, Kind.END)
    (gap,) = captures.documents(tmp_path, Kind.GAP)
    assert (end["rows"], end["dropped_rows"], end["guarded_errors"]) == (4, 4, {"task": 3})
    assert (gap["dropped_rows"], gap["reason"]) == (4, "task unreadable")
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "kvtrace capture: a fault in task was counted" in told


def test_the_header_names_nothing_private(tmp_path: Path) -> None:
    """It holds engine, versions, process and clocks, with what the adapter adds."""
    rec = captures.recorder(tmp_path, recording={"header": {"adapter": {"inner": "fs"}}})
    rec.close()
    (header,) = captures.documents(tmp_path, Kind.HEADER)
    assert set(header) == {
        "spool", "engine", "engine_version", "plugin_version", "process", "part", "pid", "boot_id",
        "anchor", "key_check", "secret_given", "queue_tasks", "flush_s", "complete_is",
        "not_visible", "adapter",
    }  # fmt: skip
    assert header["adapter"] == {"inner": "fs"}
    assert header["process"].startswith(f"{os.getpid()}-")
    assert (header["key_check"], header["secret_given"]) == (Hasher(b"s").check, True)
    assert abs(header["anchor"]["width_ns"]) < 1e9


@pytest.mark.slow
def test_eight_threads_lose_nothing_uncounted(tmp_path: Path) -> None:
    """Of 8 threads with 20,000 ops each on a short queue, recorded and dropped ones are all."""
    rec = captures.recorder(tmp_path, queue_tasks=64)

    def load() -> None:
        for op in range(20_000):
            captures.send(rec, [op])

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rec.close()
    (end,) = captures.documents(tmp_path, Kind.END)
    gaps = captures.documents(tmp_path, Kind.GAP)
    assert end["dropped_rows"] > 0
    assert end["rows"] == len(captures.records(tmp_path)) > 0
    assert end["rows"] + end["dropped_rows"] == 160_000
    assert sum(gap["dropped_rows"] for gap in gaps) == end["dropped_rows"] == rec.dropped
    assert {gap["reason"] for gap in gaps} == {"queue full"}


def test_files_are_rotated(tmp_path: Path) -> None:
    """A large file is ended and the next one says its number; rows and batches go on."""
    rec = captures.recorder(tmp_path, rotate_bytes=300)
    for burst in range(3):
        captures.send(rec, [bytes([burst, key]) for key in range(50)])
        wait_for(rec, (burst + 1) * 50)
    rec.close()
    heads, ends = captures.documents(tmp_path, Kind.HEADER), captures.documents(tmp_path, Kind.END)
    assert [head["part"] for head in heads] == [0, 1, 2, 3]
    assert len({head["process"] for head in heads}) == 1
    assert [end["final"] for end in ends] == [False, False, False, True]
    assert [end["rows"] for end in ends] == [50, 100, 150, 150]
    assert captures.records(tmp_path)["batch"].tolist() == [0] * 50 + [1] * 50 + [2] * 50


def wait_for(rec: Recorder, rows: int) -> None:
    """Wait until the writer has written rows and is asleep again."""
    for _ in range(2000):
        done = rec.rows >= rows
        rec._stop.wait(0.02)
        if done:
            return
    raise AssertionError(f"{rec.rows} of {rows} rows were written")


@pytest.mark.slow
def test_a_queue_that_never_empties_is_rotated(tmp_path: Path) -> None:
    """Under a load that the writer doesn't get to the end of, files end and gaps are told too."""
    rec = captures.recorder(tmp_path, rotate_bytes=300, queue_tasks=50_000, flush_s=5.0)
    for number in range(30_000):
        captures.send(rec, [number])
    for _ in range(25_000):
        captures.send(rec, [0])
    rec.close()
    (first, *_, last) = captures.documents(tmp_path, Kind.END)
    assert len(spool.parts(tmp_path)) > 10
    assert last["rows"] == len(captures.records(tmp_path)) == 50_000
    assert first["dropped_rows"] == last["dropped_rows"] == 5_000


@pytest.mark.slow
def test_a_large_task_is_several_frames(tmp_path: Path) -> None:
    """No frame is longer than a reader takes; positions beyond 65,535 begin anew."""
    rec = captures.recorder(tmp_path)
    captures.send(rec, [*range(100_000)])
    rec.close()
    assert [frame.rows for frame in captures.frames(tmp_path, Kind.ROWS)] == [65_536, 34_464]
    assert captures.records(tmp_path)["position"].tolist()[65_534:65_538] == [65_534, 65_535, 0, 1]


def test_old_files_are_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old file is ended if it has rows, and anchors are written in between."""
    monkeypatch.setattr(moment, "ANCHOR_EVERY_NS", 0)
    rec = captures.recorder(tmp_path, rotate_s=1e-6)
    rec._stop.wait(0.1)
    captures.send(rec, [b"a"])
    wait_for(rec, 1)
    rec.close()
    assert len(spool.parts(tmp_path)) == 2
    assert captures.documents(tmp_path, Kind.ANCHOR)


def test_a_fork_leaves_the_parent_unharmed(tmp_path: Path) -> None:
    """The child's recorder is off, counts what it is sent, writes nothing; the parent goes on."""
    rec = captures.recorder(tmp_path)
    captures.send(rec, [b"a"])
    child = os.fork()
    if child == 0:
        captures.send(rec, [b"b"] * 10)
        rec.close()
        again = shared(Settings(tmp_path / "child", flush_s=0.01), "test", "1")
        captures.send(again, [b"c"])
        again.release()
        os._exit(rec._queue_dropped())
    _, status = os.waitpid(child, 0)
    captures.send(rec, [b"d"])
    rec.close()
    assert os.waitstatus_to_exitcode(status) == 10
    assert len(captures.records(tmp_path)) == 2
    assert captures.documents(tmp_path, Kind.END)[0]["dropped_rows"] == 0
    assert len(captures.records(tmp_path / "child")) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", ["pass", "multiprocessing.Process(target=work).start()", "recorder.release()"]
)
def test_a_clean_exit_writes_the_end(tmp_path: Path, how: str) -> None:
    """At the end of a program, of a multiprocessing child, and of its last user."""
    program = f"""if 1:
        import multiprocessing
        multiprocessing.set_start_method("fork")
        from kvtrace.capture.recorder import shared
        from kvtrace.capture.settings import Settings
        from pathlib import Path
        def work(name="child"):
            global recorder
            recorder = shared(Settings(Path({str(tmp_path)!r}) / name), "test", "1")
            recorder.task(0, 0, 0, 1, 2, [b"a"], 5)
        work("parent")
        {how}
    """
    subprocess.run([sys.executable, "-c", program], check=True, cwd=places.ROOT)
    folders = list(tmp_path.iterdir())
    assert len(folders) == 1 + ("multi" in how)
    for folder in folders:
        assert [end["final"] for end in captures.documents(folder, Kind.END)] == [True]
        assert len(captures.records(folder)) == 1


def test_users_share_a_recorder(tmp_path: Path) -> None:
    """Adapters of one process and folder have one recorder, which the last one closes."""
    one, two = (shared(Settings(tmp_path), "test", "1") for _ in range(2))
    assert one is two
    one.release()
    captures.send(two, [b"a"])
    two.release()
    assert len(captures.records(tmp_path)) == 1
    after = shared(Settings(tmp_path), "test", "1")
    assert after is not one
    after.release()


def test_after_the_end_tasks_are_counted(tmp_path: Path) -> None:
    """A task that comes too late is dropped and counted, and closing again does nothing."""
    rec = captures.recorder(tmp_path)
    rec.close()
    captures.send(rec, [b"a", b"b"])
    rec.close()
    assert (rec.dropped, rec.rows) == (2, 0)
    assert len(captures.frames(tmp_path, Kind.END)) == 1


@pytest.mark.parametrize("problem", ["file", "version"])
def test_a_start_that_cannot_work_stops_the_engine(tmp_path: Path, problem: str) -> None:
    """A folder that can't be made, or an engine of unknown version, is told in one line."""
    (tmp_path / "file").write_text("")
    out = tmp_path / ("file" if problem == "file" else "new")
    with pytest.raises(CaptureError, match=f"kvtrace capture: .*{problem}"):
        Recorder(Settings(out), "test", "" if problem == "version" else "1")


class Broken:
    """A part whose device is full for a while."""

    def __init__(self, part: Any) -> None:
        self.part, self.full = part, True

    def _write(self, data: bytes) -> None:
        if self.full:
            self.part._file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        type(self.part)._write(self.part, data)


def test_a_full_disk_costs_rows_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half frames are cut off; when space returns, recording goes on and the gap is told."""
    rec = captures.recorder(tmp_path)
    captures.send(rec, [b"a"])
    wait_for(rec, 1)
    part = rec._writer.part
    assert part is not None
    broken = Broken(part)
    part._write = broken._write  # type: ignore[method-assign]
    captures.send(rec, [b"b", b"c"])
    while rec.dropped < 2:
        rec._stop.wait(0.01)
    broken.full = False
    captures.send(rec, [b"d"])
    rec.close()
    (end,) = captures.documents(tmp_path, Kind.END)
    (gap,) = captures.documents(tmp_path, Kind.GAP)
    assert len(captures.records(tmp_path)) == end["rows"] == 2
    assert (end["dropped_rows"], gap["dropped_rows"], gap["reason"]) == (2, 2, "write failed")
    assert end["write_errors"] >= 1
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_importing_costs_little() -> None:
    """All that runs in an engine needs numpy only: no package of kvtrace's is imported."""
    program = (
        "import sys, numpy; before = set(sys.modules)\n"
        "import kvtrace.capture.recorder, kvtrace.capture.spool\n"
        "print(sorted({name.partition('.')[0] for name in set(sys.modules) - before}"
        " - set(sys.stdlib_module_names) - {'__mp_main__'}))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=places.ROOT
    )
    assert ended.stdout.strip() == "['kvtrace']"


def test_a_fork_does_not_hang_on_the_registry(tmp_path: Path) -> None:
    """A child may make its own recorder even if another thread was making one."""
    with recorders._shared_lock:
        child = os.fork()
        if child == 0:
            shared(Settings(tmp_path, flush_s=0.01), "test", "1").release()
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert isinstance(next(iter(spool.frames(spool.parts(tmp_path)[0]))), Frame)
