"""Facts of a comparison: each side's device, trace and settings, as text."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kvtrace.units import format_bytes, format_duration_ns
from replay.compare import setup
from replay.compare.setup import io_text
from replay.options import ReplayOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from replay.compare.setup import Setup
    from replay.compare.sides import Side
    from replay.host.environment import TargetEnvironment
    from replay.measure.figures import LaneDocument
    from replay.result.document import ResultDocument

_FILE = re.compile(r" \([^()]*file\)$")
ROUNDS = "rounds of the trace"
_NOT_COMPARED = ("trials", "date")
"""Facts that differ between any two sides."""
_SHOWN_ELSEWHERE = ("mode", "speed", "queue_depth", "engine", "run_id", "accept")


def facts(sides: Sequence[Side]) -> Iterator[tuple[str, list[str | None], bool]]:
    """Yield a fact's name, its text per side (None: not known), and whether the sides differ.

    What no side knows is left out.
    """
    for name, fact in _FACTS:
        texts = [fact(side) for side in sides]
        if any(texts):
            yield name, texts, name not in _NOT_COMPARED and _differ(texts)
    parts = [setup.rounds(side) for side in sides]
    if any(part not in (None, 1.0) for part in parts):
        texts = [None if part is None else f"{part:.2f}" for part in parts]
        yield ROUNDS, texts, setup.parts_differ(sides)
    for field in ReplayOptions.model_fields:
        texts = [_option(side, field) for side in sides]
        if field not in _SHOWN_ELSEWHERE and _differ(texts):
            yield f"option {field.removesuffix('_bytes').removesuffix('_ns')}", texts, True


def _differ(texts: Sequence[str | None]) -> bool:
    return len(set(texts) - {None}) > 1


def _documents(side: Side) -> list[ResultDocument]:
    return [trial.document for trial in side.trials if trial.document is not None]


def _of_first(fact: Callable[[ResultDocument], str | None]) -> Callable[[Side], str | None]:
    """Return a fact of a side: its trials are alike, so that the first one tells it."""

    def of_side(side: Side) -> str | None:
        documents = _documents(side)
        return fact(documents[0]) or None if documents else None

    return of_side


def _of_setup(shown: Callable[[Setup], object]) -> Callable[[Side], str | None]:
    """Return a fact that other tools may state as well."""

    def of_side(side: Side) -> str | None:
        texts = dict.fromkeys(shown(trial.setup) for trial in side.trials)
        return ", ".join(str(text) for text in texts if text) or None

    return of_side


def _trials(side: Side) -> str:
    verdicts = [trial.verdict for trial in side.trials]
    marks = sorted({mark.code for document in _documents(side) for mark in document.marks})
    counted = [f"{verdicts.count(word)} × {word}" for word in dict.fromkeys(verdicts)]
    return ", ".join([*counted, *marks])


def _date(side: Side) -> str | None:
    """Return when the trials were made, from the first to the last, in UTC."""
    times = sorted(document.created_at_s for document in _documents(side))
    if not times:
        return None
    first, last = (
        f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}" for at in (times[0], times[-1])
    )
    return f"{first} UTC" if first == last else f"{first} to {last} UTC"


def _target(document: ResultDocument) -> str:
    """Return where each tier was; whether a file was new differs between trials on one device."""
    return "; ".join(f"{lane.tier}: {_FILE.sub('', lane.title)}" for lane in document.lanes)


def _device(document: ResultDocument) -> str | None:
    if document.environment is None:
        return None
    below = {target.title: target for target in document.environment.targets}
    texts = [text for lane in document.lanes if (text := _below(lane, below.get(lane.title)))]
    return "; ".join(texts)


def _below(lane: LaneDocument, target: TargetEnvironment | None) -> str:
    """Return the drive and file system below a lane."""
    if target is None:
        return ""
    firmware = None if lane.device_state is None else lane.device_state.firmware
    parts = [
        target.model,
        None if target.size_bytes is None else format_bytes(target.size_bytes),
        firmware and f"firmware {firmware}",
        target.file_system,
    ]
    return ", ".join(part for part in parts if part)


def _state(document: ResultDocument) -> str | None:
    """Return the state that the devices were brought to; None where there is no device."""
    texts = []
    for lane in document.lanes:
        state = lane.preconditioned
        if state is not None:
            steady = ", steady" if state.steady else ""
            texts.append(f"preconditioned, {state.passes} passes{steady}")
        elif lane.device is not None or lane.device_state is not None:
            texts.append("unknown: not preconditioned")
    return "; ".join(texts)


def _model(document: ResultDocument) -> str | None:
    header = document.trace.header
    if document.trace.model is None:
        return None
    dtype = (header.get("model") or {}).get("dtype")
    ranks = header.get("tensor_parallel")
    parts = [document.trace.model, dtype, None if ranks is None else f"TP {ranks}"]
    return ", ".join(str(part) for part in parts if part)


def _layout(document: ResultDocument) -> str | None:
    layout = document.trace.header.get("layout") or {}
    if not layout.get("name"):
        return None
    tokens = layout.get("block_tokens")
    return f"{layout['name']}{f', blocks of {tokens} tokens' if tokens else ''}"


def _trace(document: ResultDocument) -> str:
    """Return which trace it was; how much of it a run that was ended did differs by chance."""
    return f"{document.trace.rows:,} rows, sha256 {document.trace.sha256[:12]}"


def _tiers(document: ResultDocument) -> str:
    return ", ".join(lane.tier for lane in document.lanes)


def _mode(side: Side) -> str | None:
    mode = _of_setup(lambda setup: setup.mode)(side)
    config = next((document.config for document in _documents(side)), None)
    return mode if config is None or config.speed == 1 else f"{mode}, speed {config.speed:g}"


def _io_size(setup: Setup) -> str | None:
    size = setup.io_class_bytes
    return None if size is None else f"the largest {io_text(size)}"


def _versions(document: ResultDocument) -> str | None:
    host = document.environment
    if host is None:
        return None
    versions = {**host.versions, "Python": host.python}
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _host(document: ResultDocument) -> str | None:
    host = document.environment
    if host is None:
        return None
    cpus = f"{host.cpus} × {host.cpu_model or 'unknown CPU'}"
    return f"{cpus}, {format_bytes(host.memory_bytes)} of memory"


def _kernel(document: ResultDocument) -> str | None:
    host = document.environment
    return None if host is None else f"{host.kernel} {host.machine}"


def _option(side: Side, field: str) -> str | None:
    """Return a replay's option as people read it."""
    config = next((document.config for document in _documents(side)), None)
    if config is None:
        return None
    value = config.model_dump(mode="json")[field]
    if value is None:
        return "by the run"
    if field.endswith("_bytes"):
        return format_bytes(value)
    return format_duration_ns(value) if field.endswith("_ns") else str(value)


_FACTS: tuple[tuple[str, Callable[[Side], str | None]], ...] = (
    ("trials", _trials),
    ("tool", _of_setup(lambda setup: setup.tool)),
    ("target", _of_first(_target)),
    ("device", _of_first(_device)),
    ("device state", _of_first(_state)),
    ("model", _of_first(_model)),
    ("layout", _of_first(_layout)),
    ("trace", _of_first(_trace)),
    ("tiers", _of_first(_tiers)),
    ("mode", _mode),
    ("queue depth", _of_setup(lambda setup: setup.depth)),
    ("I/O size", _of_setup(_io_size)),
    ("engine", _of_setup(lambda setup: setup.engine)),
    ("versions", _of_first(_versions)),
    ("host", _of_first(_host)),
    ("kernel", _of_first(_kernel)),
    ("date", _date),
)
