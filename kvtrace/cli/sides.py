"""Sides of a comparison; other tools' logs are imported first, into a folder that doesn't stay."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from kvtrace import plugins
from kvtrace.errors import KvtraceError, TraceError
from kvtrace.formats.common import importing as importers
from replay.compare import tools
from replay.compare.figures import of_result
from replay.compare.sides import Side, Trial, load_side
from replay.result import stored

if TYPE_CHECKING:
    from replay.result.document import ResultDocument

_OURS = (".parquet", ".json")


def load(path: Path, label: str | None) -> Side:
    """Return what is in a file or folder: a result of ours, another tool's, or its log."""
    if path.is_dir() or path.suffix in _OURS or tools.is_json(path):
        return load_side(path, label)
    name = importers.recognised(path)
    if name is None:
        raise TraceError(
            "not a known result or log",
            where=path,
            accepted="; ".join(
                (
                    "a report by --report NAME.json",
                    "a result trace",
                    *tools.forms(),
                    f"logs of {', '.join(plugins.names(plugins.IMPORTER))}",
                )
            ),
        )
    trial = _imported(path, name)
    return Side(label or path.name.partition(".")[0] or path.name, (trial,))


def _imported(path: Path, name: str) -> Trial:
    """Return the result of a log's ops. Raises TraceError for one that has no outcomes."""
    with tempfile.TemporaryDirectory(prefix="kvtrace-") as folder:
        trace = Path(folder) / "imported.parquet"
        try:
            made = importers.convert([path], trace, format_name=name)
            document = _result(path, trace)
        except KvtraceError as error:
            raise _with_command(error, path, name) from error
    # What an import leaves beside its trace is gone with the folder.
    notes = (f"{path.name}, imported as {name}: {note}" for note in made.notes
             if trace.stem not in note)  # fmt: skip
    return Trial(path.name, of_result(document), document, tuple(notes))


def _result(path: Path, trace: Path) -> ResultDocument:
    try:
        return stored.load(trace)
    except TraceError as error:
        raise TraceError(error.problem, where=path, accepted=error.accepted) from error


def _with_command(error: KvtraceError, path: Path, name: str) -> KvtraceError:
    """Return the error with what to run by hand, where options may help."""
    out = f"{path.name.partition('.')[0]}.parquet"
    command = shlex.join(["kvtrace", "import", str(path), out, "--format", name])
    return type(error)(
        error.problem,
        where=error.where,
        got=error.got,
        accepted=error.accepted,
        hint="; ".join(filter(None, [error.hint, f"import it by itself: {command}"])),
    )
