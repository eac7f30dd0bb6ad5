"""`python -m tests.fuzz`: workers under supervision; what they find is kept as files."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz import worker
from tests.fuzz.seeds import make_seeds
from tests.fuzz.targets import Target, targets
from tests.support import places

ROOT = places.ROOT
HANG_S = 40
"""An input that takes longer, on a busy machine, hangs."""
INPUTS_PER_PROCESS = 3000


@dataclass
class Lane:
    """A worker process, and how far it is."""

    index: int
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    log: Path = Path()
    read: int = 0
    number: int = 0
    running: str = ""
    since: float = 0.0
    done: int = 0


@dataclass
class Found:
    """What was found so far."""

    folder: Path
    seed: int
    only: str
    targets: list[Target]
    inputs: int = 0
    by_target: Counter[str] = field(default_factory=Counter)
    took_ms: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    slowest: tuple[int, str] = (0, "")
    most_mib: int = 0

    def keep(self, lane: Lane, what: str) -> None:
        """Note a problem; keep the input of the first of its kind."""
        kind = re.sub(r"\d{2,}|0x[0-9a-f]+", "N", what)
        kind = f"{lane.running.split()[0]} … {kind}" if "bug" in kind else kind
        self.problems[kind] += 1
        if self.problems[kind] > 1:
            return
        name = f"{len(self.problems):03d}-{re.sub(r'[^A-Za-z0-9.]+', '_', kind)[:80]}"
        kept = self.folder / name
        shutil.rmtree(kept, ignore_errors=True)
        rng = worker.rng_of(self.seed, lane.number)
        target = worker.chosen(self.targets, rng, self.only)
        worker.prepare(kept, target, target.mutate(next(iter(target.seeds.values())), rng))
        kept.mkdir(exist_ok=True, parents=True)
        told = {"target": lane.running, "number": lane.number, "what": what}
        (kept / "found.json").write_text(json.dumps(told, indent=1))
        print(f"FOUND {name}\n      input {lane.number}, {lane.running}: {what}", flush=True)


class Supervisor:
    """Keeps the workers going until there were enough inputs, or time is over."""

    def __init__(self, asked: argparse.Namespace, work: Path) -> None:
        self.asked, self.work = asked, work
        self.found = Found(Path(asked.keep), asked.seed, asked.only, targets(work / "seeds"))
        self.lanes = [Lane(at, work / f"lane{at}") for at in range(asked.jobs)]
        self.began = time.monotonic()

    def _start(self, lane: Lane, number: int) -> None:
        shutil.rmtree(lane.folder, ignore_errors=True)
        lane.folder.mkdir(parents=True)
        lane.log, lane.read, lane.number, lane.done = lane.folder / "log", 0, number, 0
        end = min(self.asked.inputs, number + INPUTS_PER_PROCESS * self.asked.jobs)
        words = (self.work / "seeds", lane.folder, lane.log, self.asked.seed, number,
                 self.asked.jobs, end, self.asked.only)  # fmt: skip
        with (lane.folder / "stderr").open("wb") as errors:
            lane.process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.worker", *map(str, words)],
                cwd=ROOT,
                stdout=errors,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        lane.running, lane.since = "start", time.monotonic()

    def run(self) -> Found:
        """Run until the end; return what was found."""
        for lane in self.lanes:
            self._start(lane, lane.index)
        shown = time.monotonic()
        try:
            while any(lane.process for lane in self.lanes) and not self._over():
                for lane in self.lanes:
                    self._look(lane)
                if time.monotonic() - shown > self.asked.every:
                    shown = time.monotonic()
                    self.show()
                time.sleep(0.05)
        finally:
            for lane in self.lanes:
                self._end(lane)
        return self.found

    def _over(self) -> bool:
        return time.monotonic() - self.began > self.asked.seconds

    def show(self) -> None:
        """Print how far it is."""
        found, took_s = self.found, time.monotonic() - self.began
        print(
            f"{found.inputs:,} inputs in {took_s:,.0f} s,"
            f" {found.inputs / max(took_s, 1e-9):,.0f}/s;"
            f" {sum(found.problems.values())} problems of {len(found.problems)} kinds;"
            f" slowest {found.slowest[0]} ms ({found.slowest[1]}), most {found.most_mib} MiB",
            flush=True,
        )

    def _end(self, lane: Lane) -> None:
        if lane.process is not None:
            lane.process.kill()
            lane.process.wait()
            lane.process = None

    def _look(self, lane: Lane) -> None:
        """Read what a worker has written; begin anew if it has ended or hangs."""
        if lane.process is None:
            return
        code = lane.process.poll()
        self._read(lane)
        if code is None and time.monotonic() - lane.since < HANG_S + (lane.running == "start") * 80:
            return
        if code is None:
            with contextlib.suppress(ProcessLookupError):
                lane.process.send_signal(signal.SIGABRT)
            self._end(lane)
            self.found.keep(lane, f"hangs: more than {HANG_S} s")
        elif lane.running != "idle":
            name = signal.Signals(-code).name if code < 0 else f"exit {code}"
            said = (lane.folder / "stderr").read_text(errors="replace").strip().splitlines()
            self.found.keep(lane, f"worker died: {name} {' '.join(said[-1:])[:200]}")
        lane.process = None
        following = lane.number + self.asked.jobs
        if following < self.asked.inputs:
            self._start(lane, following)

    def _read(self, lane: Lane) -> None:
        if not lane.log.exists():
            return
        with lane.log.open() as log:
            log.seek(lane.read)
            while (line := log.readline()).endswith("\n"):
                lane.read = log.tell()
                self._take(lane, line.rstrip("\n"))

    def _take(self, lane: Lane, line: str) -> None:
        number, what, rest = line.split(" ", 2)
        lane.number, lane.since = int(number), time.monotonic()
        if what == "begin":
            lane.running = rest
            return
        took, mib, said = rest.split(" ", 2)
        found = self.found
        found.inputs += 1
        found.by_target[lane.running] += 1
        found.took_ms[lane.running] += int(took)
        found.slowest = max(found.slowest, (int(took), f"{number} {lane.running}"))
        found.most_mib = max(found.most_mib, int(mib))
        if said != "ok":
            found.keep(lane, said)
        lane.running = "idle"


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="time limit (60)")
    parser.add_argument("--inputs", type=int, default=1 << 40, help="inputs at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="worker processes (2)")
    parser.add_argument("--only", default="", help="part of the names of targets")
    parser.add_argument("--keep", default="fuzz-found", help="folder for inputs that were found")
    parser.add_argument("--every", type=float, default=15, help="seconds between lines")
    return parser.parse_args()


def _end(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def main() -> int:
    """Fuzz; return 1 if anything was found."""
    asked = _asked()
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell's background jobs ignore the latter
        signal.signal(number, _end)
    base = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="kvtrace-fuzz-", dir=base) as folder:
        work = Path(folder)
        make_seeds(work / "seeds")
        warm = ("tests.fuzz.worker", "warm", str(work / "seeds"), str(work / "warm"))
        subprocess.run([sys.executable, "-m", *warm], cwd=ROOT, check=True)
        supervisor = Supervisor(asked, work)
        found = supervisor.run()
        supervisor.show()
    for name, count in sorted(found.by_target.items()):
        print(f"  {count:7,} × {found.took_ms[name] / count:6.0f} ms  {name}")
    for kind, count in found.problems.most_common():
        print(f"PROBLEM {count:,} × {kind}")
    return 1 if found.problems else 0


if __name__ == "__main__":
    assert worker.MEMORY_BYTES
    sys.exit(main())
