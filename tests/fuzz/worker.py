"""Runs inputs one after the other in a process with limits, and writes down what came of each."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.fuzz import command
from tests.fuzz.oracle import complaint
from tests.fuzz.targets import Target, targets

MEMORY_BYTES = 2 << 30
"""Most that an input may take, over what the process has when it begins."""
_ADDRESS_BYTES = 24 << 30


def chosen(made: list[Target], rng: np.random.Generator, only: str) -> Target:
    """Return the target of an input, drawn by weight."""
    some = [target for target in made if only in target.name]
    weights = np.array([target.weight for target in some])
    return some[rng.choice(len(some), p=weights / weights.sum())]


def rng_of(seed: int, number: int) -> np.random.Generator:
    """Return the random numbers of one input."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))


def prepare(folder: Path, target: Target, content: bytes) -> None:
    """Put the seeds of a target into an empty folder, the first of them replaced by `content`."""
    shutil.rmtree(folder, ignore_errors=True)
    for at, (name, seed) in enumerate(target.seeds.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if at == 0 else seed)


def run_one(target: Target, folder: Path, temporary: Path) -> str | None:
    """Run a target on what is in `folder`; return what is wrong with how it ended, or None."""
    before = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    if target.call is not None:
        call = target.call
        ended = command.captured(lambda: call(folder))
    else:
        ended = command.run([word.replace("{}", str(folder)) for word in target.argv])
    found = complaint(target, ended, folder, before)
    if found is None and any(temporary.iterdir()):
        found = f"left {next(temporary.iterdir()).name[:12]} in the temporary folder"
    for path in temporary.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if found is not None:
        (folder / ".stderr").write_text(ended.err[-20_000:], errors="replace")
    return found


def memory_bytes() -> int:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def warm(seeds: Path, work: Path) -> None:
    """Run each target on its seed as it is: what is compiled is in the cache afterwards."""
    (work / "tmp").mkdir(parents=True)
    for target in targets(seeds):
        prepare(work / "in", target, next(iter(target.seeds.values())))
        found = run_one(target, work / "in", work / "tmp")
        errors = (work / "in/.stderr").read_text() if found else ""
        assert found is None, f"{target.name}: {found} {errors}"


def main(words: list[str]) -> None:
    """Run inputs `first`, `first + step`, … up to `end`; a line per input goes to `out`.

    The line before an input says what is about to run, so that a crash has a name.
    """
    seeds, work, out, seed, first, step, end, only = (
        Path(words[0]), Path(words[1]), Path(words[2]), *map(int, words[3:7]), words[7]
    )  # fmt: skip
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_BYTES, _ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    temporary = work / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    made = targets(seeds)
    with out.open("a", buffering=1) as log:
        for number in range(first, end, step):
            rng = rng_of(seed, number)
            target = chosen(made, rng, only)
            content = target.mutate(next(iter(target.seeds.values())), rng)
            prepare(work / "in", target, content)
            log.write(f"{number} begin {target.name}\n")
            began = time.monotonic()
            found = run_one(target, work / "in", temporary)
            took_ms = int(1000 * (time.monotonic() - began))
            if found is None and memory_bytes() > MEMORY_BYTES:
                found = f"memory: {memory_bytes() >> 20} MiB"
            log.write(f"{number} end {took_ms} {memory_bytes() >> 20} {found or 'ok'}\n")
            if found is not None and found.startswith("memory"):
                return  # the next input begins anew


if __name__ == "__main__":
    if sys.argv[1] == "warm":
        warm(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main(sys.argv[1:])
