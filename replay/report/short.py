"""The terminal's default report: at most 20 lines of 80 columns; `terminal` renders all tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len, chop_cells
from rich.text import Text

from kvtrace.show.printable import printable
from kvtrace.show.tables import wrapped
from kvtrace.units import format_bytes, format_count, format_rate
from replay.report import short_times
from replay.report.sections.lanes import depth
from replay.report.support.cells import WIDTH
from replay.report.terminal import STYLES, moved_per_s, sparkline

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from replay.measure.figures import LaneDocument, LatenessSummary
    from replay.result.document import ResultDocument
    from replay.result.reason import Reason

LINES = 20
"""Lines of the report at most."""
ROWS, ROWS_BESIDE_WARNINGS, ROWS_BESIDE_REASONS = 6, 4, 2
"""Rows of the table of times at most, and at least beside long lists of warnings and reasons."""
_LABEL = 16
"""Columns before the text of a labelled line."""
_BARS = 40
_NAME = 60
"""Longest file name in the first line; a longer one is shortened in its middle."""
_MODES = {"open": "open loop", "closed": "closed loop", "max": "max"}
_WAITS = {
    "dependency_wait_ns": "for predecessors",
    "slot_wait_ns": "for a queue slot",
    "burst_wait_ns": "in bursts of the trace",
    "host_lateness_ns": "for kvtrace itself",
}


@dataclass(frozen=True, slots=True)
class _Room:
    """Lines at most of each part; `gap`: blank lines between parts."""

    head: int
    rate: int
    schedule: int
    figure: int
    remedy: int
    files: int
    course: bool
    gap: int


_WIDE = _Room(head=3, rate=2, schedule=2, figure=3, remedy=2, files=2, course=True, gap=1)
_TIGHT = _Room(head=2, rate=1, schedule=1, figure=2, remedy=1, files=1, course=False, gap=0)
"""For many tiers, long names and long reasons together."""


def render(result: ResultDocument, files: Sequence[Path] = ()) -> Iterator[Text]:
    """Yield the report's lines, top to bottom. `files`: where the result was written."""
    lines = _lines(result, files, _WIDE)
    yield from lines if len(lines) <= LINES else _lines(result, files, _TIGHT)


def _lines(result: ResultDocument, files: Sequence[Path], room: _Room) -> list[Text]:
    head, rates, foot = _head(result, room), list(_rates(result, room)), list(_foot(result, room))
    last = list(_files(files, room))
    times = short_times.blocks(result)
    spare = LINES - len(head) - len(rates) - len(foot) - len(last) - 3 * room.gap
    most = [
        spare - short_times.lines_min(times, rows)
        for rows in (ROWS_BESIDE_REASONS, ROWS_BESIDE_WARNINGS)
    ]
    notes = _fitting_notes(list(_notes(result, room)), *most)
    table = short_times.table(
        times, min(ROWS + 2, spare - len(notes)), scheduled=_scheduled(result)
    )
    gap = [Text()] * room.gap
    return [*head, *gap, *rates, *gap, *table, *gap, *foot, *notes, *last]


def _scheduled(result: ResultDocument) -> bool:
    return any(lane.response_ns is not None for lane in result.lanes)


def _fold(text: str, columns: int) -> list[str]:
    """Return printable lines of at most `columns` cells, broken at spaces where possible."""
    lines = wrapped(printable(text), columns, long_words=True)
    return [part for line in lines for part in chop_cells(line, columns)] or [""]


def _cut(lines: list[str], count: int) -> list[str]:
    """Return at most `count` lines, the last of which shows that others were left out."""
    if len(lines) <= count:
        return lines
    return [*lines[: count - 1], f"{chop_cells(lines[count - 1], WIDTH - _LABEL - 4)[0]} ..."]


def _labelled(label: str, lines: Sequence[str], style: str = "dim") -> list[Text]:
    """Return lines behind a label, which stands before the first of them."""
    texts = []
    for at, line in enumerate(lines):
        text = Text(f"{label if not at else '':<{_LABEL - 1}} ", style=style)
        text.append(line, style="default")
        texts.append(text)
    return texts


def _shortened(name: str, most: int = _NAME) -> str:
    """Return a name of at most about `most` cells, without its middle if it is longer."""
    if cell_len(name) <= most:
        return name
    half = most // 2 - 2
    return f"{chop_cells(name, half)[0]}...{chop_cells(name[::-1], half)[0][::-1]}"


def _head(result: ResultDocument, room: _Room) -> list[Text]:
    """Return the verdict, what was replayed on what, and how."""
    marks = "".join(f" {code}" for code in dict.fromkeys(mark.code for mark in result.marks))
    accepted = " (all reasons accepted)" if result.reasons and result.acceptable else ""
    lanes = ", ".join(f"{lane.tier} on {_shortened(lane.title)}" for lane in result.lanes)
    if result.kind == "ops":
        lanes = f"tier {', '.join(lane.tier for lane in result.lanes)}, as recorded"
    what = f"{_shortened(result.trace.path)} → {lanes}"
    how, verdict = _how(result), f"{result.verdict}{marks}{accepted}"
    lines = _fold(f"{verdict}  {what}", WIDTH)
    left = WIDTH - cell_len(lines[-1])
    if len(lines) <= room.head and left >= len(how) + 2:
        lines[-1] += f"{how:>{left}}"
    else:
        lines = [*_cut(lines, room.head - 1), f"{how:>{WIDTH}}"]
    texts = [Text(line) for line in lines]
    texts[0].stylize(STYLES[result.verdict], 0, len(result.verdict))
    return texts


def _how(result: ResultDocument) -> str:
    """Return mode, speed and window: `open loop, 36.3 s`."""
    window = f"{result.window_s:,.1f} s"
    if result.config is None:
        return window
    mode, speed = _MODES[result.config.mode], result.config.speed
    return f"{mode}{'' if speed == 1 else f' at {speed:g}x'}, {window}"


def _rates(result: ResultDocument, room: _Room) -> Iterator[Text]:
    """Yield each tier's throughput; beneath that of the headline tier its course over time."""
    for lane in result.lanes:
        label = "throughput" if len(result.lanes) == 1 else f"{lane.tier} throughput"[: _LABEL - 1]
        yield from _labelled(label, _cut(_fold(_rate(result, lane), WIDTH - _LABEL), room.rate))
        if room.course and lane.tier == result.headline_tier:
            yield from _course(lane)


def _rate(result: ResultDocument, lane: LaneDocument) -> str:
    rate = lane.throughput_bytes_per_s
    parts = ["no window" if rate is None else format_rate(rate)]
    if lane.ops_per_s is not None:
        parts.append(f"{format_count(lane.ops_per_s)} ops/s")
    for op, past in (("read", "read"), ("write", "written")):
        moved = sum(group.bytes for group in result.groups_of(lane) if group.op == op)
        parts.append(f"{past} {format_bytes(moved)}")
    return "   ".join(parts)


def _course(lane: LaneDocument) -> Iterator[Text]:
    moved = moved_per_s(lane.time_slices)
    if any(moved):
        bars = sparkline(moved, _BARS)
        yield from _labelled("", [f"{bars}   peak {format_rate(max(moved))}"])


def _foot(result: ResultDocument, room: _Room) -> Iterator[Text]:
    """Yield errors, how much was on schedule, and what was verified."""
    if result.errors:
        by_count = sorted(result.errors_by_name.items(), key=lambda each: -each[1])
        names = ", ".join(f"{name} {format_count(count)}" for name, count in by_count[:3])
        text = f"{format_count(result.errors)} ops failed{f' ({names})' if names else ''}"
        yield from _labelled("errors", _cut(_fold(text, WIDTH - _LABEL), 1), "red")
    schedule = _on_schedule(result)
    if schedule:
        yield from _labelled("on schedule", _cut(_fold(schedule, WIDTH - _LABEL), room.schedule))
    kept = _depth(result)
    if kept and room.gap:  # else there is no line to spare
        yield from _labelled("in flight", _cut(_fold(kept, WIDTH - _LABEL), 2))
    verified = _verified(result)
    if verified:
        yield from _labelled("verified", [verified])


def _depth(result: ResultDocument) -> str:
    """Return what the recorded engine and the replay kept in flight, of the headline tier."""
    known = [lane for lane in result.lanes if depth(lane, result)]
    chosen = next((lane for lane in known if lane.tier == result.headline_tier), None)
    if chosen is None:
        return ""
    tier = f"{chosen.tier}: " if len(result.lanes) > 1 else ""
    return f"{tier}{depth(chosen, result)}"


def _on_schedule(result: ResultDocument) -> str:
    lanes = [lane for lane in result.lanes if lane.on_schedule_ratio is not None]
    if not lanes:
        return ""
    names = [f"{lane.tier} " if len(lanes) > 1 else "" for lane in lanes]
    shares = [
        f"{name}{lane.on_schedule_ratio:.1%}" for name, lane in zip(names, lanes, strict=True)
    ]
    waits = _longest_wait(result.lateness_ns)
    late = any((lane.on_schedule_ratio or 0) < 1 for lane in lanes)
    rest = f"; the rest waited mostly {waits}" if waits and late else ""
    return f"{', '.join(shares)} within 1 ms{rest}"


def _longest_wait(lateness: LatenessSummary | None) -> str:
    """Return the cause of most lateness of the headline tier's ops."""
    if lateness is None:
        return ""
    parts = {name: getattr(lateness, name) for name in _WAITS}
    means = {name: part.mean or 0.0 for name, part in parts.items() if part is not None}
    if not any(means.values()):
        return ""
    return _WAITS[max(means, key=lambda name: means[name])]


def _verified(result: ResultDocument) -> str:
    """Return how many reads were verified, and how many ops broke the order."""
    parts = []
    if result.payload is not None:
        reads, wrong = result.payload.verified_ops, result.payload.mismatched_ops
        count = f"{format_count(reads)} reads, {format_count(wrong)} wrong"
        parts.append(count if reads else "no reads")
    if result.fidelity.order_violations is not None:
        parts.append(f"order violations {format_count(result.fidelity.order_violations)}")
    return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class _Note:
    """A reason, mark or warning as lines; `kind` is its plural in the line of those left out."""

    kind: str
    code: str
    lines: list[Text]


def _notes(result: ResultDocument, room: _Room) -> Iterator[_Note]:
    """Yield everything that a reader should know, the most important first."""
    for reason in result.reasons:
        label, style = ("accepted", "yellow") if reason.accepted else ("INVALID", "red")
        lines = _note(reason, room, f"{reason.code}: ")
        yield _Note("reasons", reason.code, _labelled(label, lines, style))
    for mark in result.marks:
        label = printable(mark.code)[: _LABEL - 1]
        yield _Note("marks", mark.code, _labelled(label, _note(mark, room), "yellow"))
    for warning in result.warnings:
        yield _Note("warnings", warning.code, _labelled("warning", _note(warning, room), "yellow"))


def _note(reason: Reason, room: _Room, head: str = "") -> list[str]:
    columns = WIDTH - _LABEL
    figure = _cut(_fold(f"{head}{reason.figure}", columns), room.figure)
    return [*figure, *_cut(_fold(f"→ {reason.remedy}", columns), room.remedy)]


def _fitting_notes(notes: Sequence[_Note], most: int, most_warnings: int) -> list[Text]:
    """Return the first notes, in at most `most` lines, and a line that names the others.

    Warnings may take `most_warnings` of these lines. The first reason is always whole.
    """
    lines: list[Text] = []
    for at, note in enumerate(notes):
        rest = 1 if at < len(notes) - 1 else 0
        limit = most_warnings if note.kind == "warnings" else most
        if len(lines) + len(note.lines) + rest > limit and (at or note.kind == "warnings"):
            return [*lines, *_left_out(notes[at:])]
        lines += note.lines
    return lines


def _left_out(notes: Sequence[_Note]) -> list[Text]:
    """Return one line that counts and names the notes that `--full` shows."""
    kinds = list(dict.fromkeys(note.kind for note in notes))
    count = len(notes)
    kind = kinds[0] if len(kinds) == 1 else "notes"
    codes = ", ".join(dict.fromkeys(note.code for note in notes))
    head = f"{count} more {kind if count > 1 else kind.removesuffix('s')} in --full: "
    return _labelled("", _cut(_fold(head + codes, WIDTH - _LABEL), 1))


def _files(files: Sequence[Path], room: _Room) -> Iterator[Text]:
    """Yield where the result was written, and how to see all of it."""
    if not files:
        yield from _labelled("report", ["--full prints all tables, --report FILE.html writes them"])
        return
    names = ", ".join(_shortened(str(path)) for path in files)
    note = "(--full for all tables here)"
    lines = _cut(_fold(names, WIDTH - _LABEL), room.files)
    if len(lines) == 1 and cell_len(f"{lines[0]}  {note}") <= WIDTH - _LABEL:
        lines = [f"{lines[0]}  {note}"]
    elif len(lines) < room.files:
        lines.append(note)
    yield from _labelled("report", lines)
