"""Killed at any moment: no half file under a final name, and a rerun works.

KVTRACE_KILLS sets how often commands are killed, KVTRACE_KILL_SEED which moments are drawn.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kvtrace.files.drafts import drafts_of
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Phase, Tier
from replay.execution.output import PARTS_SUFFIX
from tests.support.command import kvtrace
from tests.support.commands import whole
from tests.support.making import write_rows

if TYPE_CHECKING:
    from pathlib import Path

KILLS = int(os.environ.get("KVTRACE_KILLS", "0"))
SEED = int(os.environ.get("KVTRACE_KILL_SEED", "0"))
ROUNDS = 1
_RUN = """
import sys
import kvtrace.formats.mlperf_csv.csvfile, replay.execution.measurement, replay.execution.output
from kvtrace.cli.main import main
replay.execution.measurement._FLUSH_NS = replay.execution.output._FLUSH_NS = 50_000_000
sys.argv = ["kvtrace", *sys.argv[1:]]
print("begun", flush=True)
main()
"""
REPLAY = ("--arena", "16MiB", "--settle", "0s", "--min-window", "0s")


@dataclass(frozen=True)
class Victim:
    """A command that is killed: what it makes, and what else it takes."""

    out: str
    words: tuple[str, ...]
    more: tuple[str, ...] = ()
    """Other outputs."""


VICTIMS = {
    "record": Victim("o.parquet", ("record", "OUT", "--users", "6", "--duration", "60s")),
    "record directory": Victim("o", ("record", "OUT", "--users", "6", "--duration", "60s")),
    "record CSV": Victim("o.csv.zst", ("record", "OUT", "--users", "6", "--duration", "60s")),
    "import": Victim("o.parquet", ("import", "long.csv", "OUT")),
    "export": Victim(
        "o.csv.zst", ("export", "long.parquet", "OUT", "--to", "mlperf-csv"),
        ("o.csv.zst.map.parquet",),
    ),
    "merge": Victim("o.parquet", ("merge", "OUT", "long.parquet", "long.parquet")),
    "slice": Victim("o.parquet", ("slice", "long.parquet", "OUT", "--rows", "7:")),
    "replay": Victim(
        "o.parquet",
        ("replay", "slow.parquet", "--target", "null", *REPLAY, "--out", "OUT",
         "--report", "r.json", "--report", "r.html"),
        ("r.json", "r.html"),
    ),
    "replay to a file": Victim(
        "o.parquet",
        ("replay", "slow.parquet", "--device", "kv.dat", "--size", "64MiB", *REPLAY,
         "--out", "OUT", "--report", "r.json"),
        ("r.json",),
    ),
    "report": Victim("o.html", ("report", "done.json", "--report", "OUT")),
}  # fmt: skip


def rows(count: int, gap_ns: int) -> list[tuple[int, Op, int, Tier, int, Phase]]:
    """Return writes and reads of objects that stay."""
    ops = ((Op.WRITE, Phase.EVICT), (Op.READ, Phase.DECODE))
    return [
        (at * gap_ns, ops[at % 2][0], 4096, Tier.NVME, at // 2 % 512, ops[at % 2][1])
        for at in range(count)
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the inputs."""
    folder = tmp_path_factory.mktemp("kill")
    long = write_rows(folder / "long.parquet", rows(200_000, 1000))
    write_rows(folder / "slow.parquet", rows(600, 1_000_000))
    assert kvtrace("export", long, folder / "long.csv", "--to", "mlperf-csv").code == 0
    words = ("--target", "null", *REPLAY, "--report", folder / "done.json")
    assert kvtrace("replay", folder / "slow.parquet", *words).code in (0, 5)
    return folder


def command(victim: Victim, out: Path) -> list[str]:
    """Return the command line of a victim."""
    words = [str(out) if word == "OUT" else word for word in victim.words]
    return [sys.executable, "-c", _RUN, *words, "--force"]


def begun(victim: Victim, place: Path) -> subprocess.Popen[bytes]:
    """Start a victim; return when its imports are done and the command begins."""
    process = subprocess.Popen(
        command(victim, place / victim.out),
        cwd=place, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    return process


def lasts_s(victim: Victim, place: Path) -> float:
    """Run a victim to its end; return how long it took."""
    with begun(victim, place) as process:
        began = time.monotonic()
        process.communicate()
    assert process.returncode in (0, 5)
    return time.monotonic() - began


def killed(victim: Victim, place: Path, after_s: float) -> bool:
    """Run a victim and kill it; return whether that was in time."""
    with begun(victim, place) as process:
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    return process.returncode == -signal.SIGKILL


def check_left(victim: Victim, place: Path, known: set[str]) -> None:
    """Fail for a half file under a final name, or anything that isn't a hidden temporary."""
    for name in (victim.out, *victim.more):
        if (place / name).exists():
            assert whole(place / name), name
    added = {path.name for path in place.iterdir()} - known - {victim.out, *victim.more, "kv.dat"}
    outs = [place / name for name in (victim.out, *victim.more)]
    ours = {path.name for out in outs for kind in (".partial", PARTS_SUFFIX)
            for path in drafts_of(out, kind)}  # fmt: skip
    assert added <= ours


def check_recovered(victim: Victim, place: Path) -> None:
    """Fail unless `recover` brings back all rows of the parts that are whole."""
    for number, folder in enumerate(drafts_of(place / victim.out, PARTS_SUFFIX)):
        flushed = 0
        for part in sorted(folder.glob("part-*.parquet")):
            with open_trace(part) as trace:
                flushed += trace.rows
        found = place / f"recovered-{number}.parquet"
        ended = kvtrace("recover", folder, found)
        if not flushed:
            assert ended.code == 2
            continue
        assert ended.code == 0, ended.err
        with open_trace(found) as trace:
            assert trace.rows == flushed
        found.unlink()


def clear(victim: Victim, place: Path) -> None:
    """Remove what a kill has left, as a user may."""
    for name in (victim.out, *victim.more):
        for folder in drafts_of(place / name, PARTS_SUFFIX):
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
        for path in drafts_of(place / name):
            if path.is_dir():
                for part in path.iterdir():
                    part.unlink()
                path.rmdir()
            else:
                path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("name", VICTIMS)
def test_a_kill_leaves_nothing_half(place: Path, name: str) -> None:
    """Random moments of each command: files are whole or not there, then a rerun works."""
    victim = VICTIMS[name]
    known = {path.name for path in place.iterdir()}
    lasted_s = lasts_s(victim, place)
    rng = np.random.default_rng([SEED, list(VICTIMS).index(name)])
    rounds = -(-KILLS // len(VICTIMS)) or ROUNDS
    in_time = 0
    for _ in range(rounds):
        in_time += killed(victim, place, float(rng.uniform(0, lasted_s)))
        check_left(victim, place, known)
        check_recovered(victim, place)
    assert in_time >= rounds // 2, "moments were drawn too late"
    lasts_s(victim, place)
    assert all(whole(place / each) for each in (victim.out, *victim.more))
    check_left(victim, place, known)
    clear(victim, place)
    for each in (victim.out, *victim.more):
        path = place / each
        if path.is_dir():
            for part in path.iterdir():
                part.unlink()
            path.rmdir()
        else:
            path.unlink()
