"""A folder with everything that a submission needs, and what is checked of it.

trace/trace.parquet     what was replayed
results/trial-N.json    one result per trial; beside it what was printed, trial-N.html and .xlsx
mlperf/trial-N…json     the same as the MLPerf Storage KV cache benchmark's tools read it
bench.json              the trials together; beside it bench.html and bench.xlsx
system.json             the machine
commands.log            every command that made it, with start time and exit code
checksums.sha256        of all of it, as sha256sum writes and reads
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from kvtrace.errors import KvtraceError, TargetError, TraceError
from kvtrace.files.outfile import OutFile
from kvtrace.trace.writer import file_sha256
from replay.compare.comparison import compare
from replay.compare.document import ComparisonDocument, FigureDocument, document_of
from replay.compare.sides import TRIALS_FOLDER, Side, check_alike, load_side
from replay.report.mlperf.summary import result_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

TRACE = "trace/trace.parquet"
BENCH_FORMS = ("bench.json", "bench.html", "bench.xlsx")
BENCH, SYSTEM, COMMANDS, CHECKSUMS = "bench.json", "system.json", "commands.log", "checksums.sha256"
_NEW_IN_2 = {"ci95", "values", "few_samples"}
"""Fields of figures that comparisons of version 1 lack or name differently."""

MLPERF_FOLDER, MLPERF_SUFFIX = "mlperf", ".mlperf.json"
INSIDE = ("trace", TRIALS_FOLDER, MLPERF_FOLDER)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked; `problem` None: it is as it must be."""

    what: str
    problem: str | None = None


def make(folder: Path, inside: Sequence[str]) -> None:
    """Make the folder with empty ones inside. Raises TargetError where something is already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise TargetError("exists already, and isn't empty", where=folder, hint="name a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in inside:
            (folder / name).mkdir()
    except OSError as error:
        raise TargetError(
            f"can't make it: {error.strerror}", where=folder, hint="name another place"
        ) from error


@contextmanager
def made(
    folder: Path, kept: Callable[[Path], None], inside: Sequence[str] = INSIDE
) -> Iterator[None]:
    """Make the folder; if the body fails, leave nothing under its name that blocks a next try.

    Then a folder without results is removed, and one that has some gets the first free name of
    `FOLDER.stopped-N`, which `kept` is told. Raises TargetError as `make`.
    """
    make(folder, inside)
    try:
        yield
    except KvtraceError:
        if any(folder.rglob(f"{TRIALS_FOLDER}/*.json")):
            kept(_set_aside(folder))
        else:
            shutil.rmtree(folder)
        raise


def _set_aside(folder: Path) -> Path:
    """Give a folder another name, and return it."""
    for number in count(1):
        place = folder.with_name(f"{folder.name}.stopped-{number}")
        if not os.path.lexists(place):
            folder.rename(place)
            return place
    raise AssertionError("there is always a free name")


def result_path(folder: Path, number: int, suffix: str) -> Path:
    """Return where a trial's result lies in one form; trials count from 1."""
    return folder / TRIALS_FOLDER / f"trial-{number:02d}{suffix}"


def mlperf_path(result: Path) -> Path:
    """Return where a trial's result lies as MLPerf's tools read it."""
    return result.parents[1] / MLPERF_FOLDER / f"{result.stem}{MLPERF_SUFFIX}"


def report_paths(folder: Path, number: int) -> list[Path]:
    """Return where a trial's reports go, its result first."""
    result, *more = (result_path(folder, number, form) for form in (".json", ".html", ".xlsx"))
    return [result, *more, mlperf_path(result)]


def write_checksums(folder: Path) -> None:
    """Write the checksums of all files that are there."""
    lines = [f"{file_sha256(path)}  {path.relative_to(folder)}\n" for path in _files(folder)]
    with OutFile(folder / CHECKSUMS, force=False) as file:
        file.write("".join(lines).encode("utf-8", "surrogateescape"))


def _files(folder: Path) -> list[Path]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if path != folder / CHECKSUMS)


def verify(folder: Path) -> list[Finding]:
    """Return what was checked of a folder. Raises TraceError if it is none of ours."""
    if not (folder / CHECKSUMS).is_file():
        raise TraceError(
            f"has no {CHECKSUMS}", where=folder, accepted="a folder made by `kvtrace bench`"
        )
    checks: list[tuple[str, Callable[[Path], str | None]]] = [
        ("the log of commands and the system's description are there", _described),
        ("the results are of the trace in the folder", _same_trace),
        ("the trials are alike", _alike),
        ("every trial is VALID", _valid),
        (f"{BENCH} says what the trials say", _same_figures),
        (f"{MLPERF_FOLDER}/ says what the trials say", _same_mlperf),
    ]
    return [
        unchanged(folder),
        *(Finding(what, _tried(check, folder)) for what, check in checks),
    ]


def unchanged(folder: Path) -> Finding:
    """Return whether the files are those that the checksums are of."""
    return Finding("no file was changed, added or removed", _tried(_same_files, folder))


def _tried(check: Callable[[Path], str | None], folder: Path) -> str | None:
    """Return the problem that a check finds; a file that can't be read or parsed is one."""
    try:
        return check(folder)
    except (KvtraceError, OSError, ValueError) as error:
        return problem_of(error)


def problem_of(error: Exception) -> str:
    """Return what an error says in a line; of a file's fields that aren't ours, the first ones."""
    if isinstance(error, KvtraceError) or not isinstance(error, ValueError):
        return str(error)
    lines = [line.partition(" [type=")[0].strip() for line in str(error).splitlines()]
    return f"not in the form that kvtrace writes: {': '.join(lines[:3])}"


def _listed(folder: Path) -> Iterator[tuple[str, str]]:
    for line in (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        yield name, digest


def _same_files(folder: Path) -> str | None:
    listed = dict(_listed(folder))
    present = {str(path.relative_to(folder)): path for path in _files(folder)}
    for name, digest in listed.items():
        if name not in present:
            return f"{name} is gone"
        if file_sha256(present[name]) != digest:
            return f"{name} has other contents than when it was made"
    added = sorted(set(present) - set(listed))
    return f"{added[0]} was added" if added else None


def _described(folder: Path) -> str | None:
    missing = [name for name in (SYSTEM, COMMANDS) if not (folder / name).is_file()]
    return f"{missing[0]} is missing" if missing else None


def _side(folder: Path) -> Side:
    return load_side(folder)


def _same_trace(folder: Path) -> str | None:
    digest = file_sha256(folder / TRACE)
    for trial in _side(folder).trials:
        if trial.document is None:
            return f"{trial.name} is not a result of kvtrace"
        if trial.document.trace.sha256 != digest:
            return f"{trial.name} is of another trace"
    return None


def _alike(folder: Path) -> str | None:
    check_alike(_side(folder).trials)
    return None


def _valid(folder: Path) -> str | None:
    bad = [trial for trial in _side(folder).trials if trial.verdict != "VALID"]
    if not bad:
        return None
    document = bad[0].document
    reasons = [] if document is None else document.reasons
    why = "".join(f"; {each.code}: {each.figure} → {each.remedy}" for each in reasons)
    return f"{len(bad)} of them aren't: {bad[0].name} is {bad[0].verdict}{why}"


def summary(folder: Path) -> ComparisonDocument:
    """Return what the trials in a folder say together."""
    return document_of(compare([_side(folder)]))


def _same_figures(folder: Path) -> str | None:
    stored = ComparisonDocument.model_validate_json((folder / BENCH).read_bytes())
    again = summary(folder)
    unknown = _NEW_IN_2 if stored.schema_version < 2 else set()
    for one, other in zip(stored.figures, again.figures, strict=False):
        if _without(one, unknown) != _without(other, unknown):
            return f"{one.name}: {one.sides} there, {other.sides} from the trials"
    if [figure.name for figure in stored.figures] != [figure.name for figure in again.figures]:
        return "it has other figures"
    return None


def _without(figure: FigureDocument, fields: set[str]) -> FigureDocument:
    """Return a figure without what an older version doesn't have, or has otherwise."""
    sides = [None if side is None else side.model_copy(update=dict.fromkeys(fields))
             for side in figure.sides]  # fmt: skip
    return figure.model_copy(update={"sides": sides})


def _same_mlperf(folder: Path) -> str | None:
    for trial in _side(folder).trials:
        path = mlperf_path(folder / TRIALS_FOLDER / trial.name)
        if not path.is_file():
            return f"{path.name} is missing"
        assert trial.document is not None, "checked before"
        if json.loads(path.read_bytes()) != result_of(trial.document):
            return f"{path.name} says something else than {trial.name}"
    return None
