"""Results in files: reading a JSON report or a result trace back into its document."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from kvtrace import arguments
from kvtrace.errors import TraceError, UsageError
from kvtrace.files.documents import read_document
from kvtrace.trace.reader import open_trace
from replay.result.document import READ_VERSIONS, SCHEMA_VERSION, ResultDocument
from replay.result.from_ops import document_of as document_of_ops
from replay.result.totals import tokens_per_io_s
from replay.result.trace_info import RESULT_KEY

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path


def load(path: str | os.PathLike[str], *, from_ops: bool = False) -> ResultDocument:
    """Return the result in a JSON report or a result trace, that of any tool included.

    A result trace of ours carries its result; `from_ops` computes it again from the ops.

    Raises TraceError for a file that is damaged, of another schema, or no result.
    """
    path = arguments.path(path, "path")
    arguments.flag(from_ops, "from_ops")
    if path.suffix == ".parquet" or path.is_dir():
        return _of_trace(path, from_ops=from_ops)
    if from_ops:
        raise UsageError("has no ops", where=path, accepted="a result trace (.parquet)")
    return parse(read_document(path, "the result").encode(), path)


@contextmanager
def consistent(where: object) -> Iterator[None]:
    """Turn what figures of a file that contradict each other end in into a TraceError.

    A result is typed, yet its figures may still be of no run: percentiles of no values, columns of
    other lengths, a window of nothing. For files only; a run's own result ends as what it is.
    """
    try:
        yield
    except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise _contradictory(where, error) from error
    except AssertionError as error:
        raise _contradictory(where, error) from error


def _contradictory(where: object, error: Exception) -> TraceError:
    return TraceError(
        "the result's figures contradict each other",
        where=where,
        got=f"{type(error).__name__}: {error}",
        hint="replay again, or report the result trace (--out)",
    )


def _of_trace(path: Path, *, from_ops: bool) -> ResultDocument:
    with open_trace(path) as trace, consistent(path):
        text = None if from_ops else trace.beside(RESULT_KEY)
        return document_of_ops(trace) if text is None else parse(text, path)


def parse(text: bytes, where: object) -> ResultDocument:
    """Return the document in `text`. Raises TraceError."""
    fields = _parsed(text, where)
    _check_version(fields, where)
    try:
        document = ResultDocument.model_validate_json(text)
    except (ValidationError, UsageError) as error:
        invalid = error if isinstance(error, ValidationError) else arguments.invalid(error)
        if invalid is None:
            raise
        first = invalid.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise TraceError(
            f"not a complete result: {place}: {first['msg']}",
            where=where,
            hint="rewrite the report: kvtrace report RESULT.parquet --report NAME.json",
        ) from error
    return document if document.schema_version == SCHEMA_VERSION else _upgraded(document)


def _upgraded(document: ResultDocument) -> ResultDocument:
    """Return a result of version 2 as one of version 3; what wasn't measured stays unknown."""
    whole = document.trace.rows_replayed == document.trace.rows
    groups = ((group.phase, group.service_ns) for group in document.groups)
    rate = tokens_per_io_s(document.trace.generated_tokens, groups) if whole else None
    changed = {
        "schema_version": SCHEMA_VERSION,
        "storage_throughput_tokens_per_sec": rate,
    }
    return document.model_copy(update=changed)


def _parsed(text: bytes, where: object) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TraceError(
            "not valid JSON: truncated, or not a kvtrace report",
            where=where,
            got=f"{len(text):,} bytes",
            accepted="a report written by --report NAME.json",
            hint="copy it again, or rewrite it from the result trace (--out)",
        ) from error
    if is_mlperf_report(fields):
        raise foreign_form(where)
    if not isinstance(fields, dict) or "schema_version" not in fields or "verdict" not in fields:
        raise TraceError(
            "not a result", where=where, accepted="a report written by --report NAME.json"
        )
    return fields


def is_mlperf_report(value: object) -> bool:
    """Return whether JSON is a result that we have written in the MLPerf benchmark's form."""
    return isinstance(value, dict) and "kvtrace" in value and "summary" in value


def foreign_form(where: object) -> TraceError:
    """Return the refusal of such a report."""
    return TraceError(
        "a result in the MLPerf benchmark's format, for its tools only",
        where=where,
        accepted="the report that was written by --report NAME.json, or the result trace (--out)",
    )


def _check_version(fields: dict[str, Any], where: object) -> None:
    version = fields["schema_version"]
    if version in READ_VERSIONS:
        return
    newer = isinstance(version, int) and version > SCHEMA_VERSION
    raise TraceError(
        "unknown schema of results",
        where=where,
        got=version,
        accepted=" or ".join(map(str, READ_VERSIONS)),
        hint="update kvtrace" if newer else "replay again, or report the result trace (--out)",
    )
