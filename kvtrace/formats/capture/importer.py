"""Recordings of live engines by `kvtrace capture`: a folder, or its files (.kvcap).

All processes make one trace, an op on a key a row, in order of submission. The recorder's drops,
gaps, torn ends and missing files stand in the header's `capture` and in the notes.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from kvtrace.capture.spool import MAGIC
from kvtrace.errors import TraceError, UsageError
from kvtrace.files.outputs import check_writable
from kvtrace.formats.capture.events import NO_SIZES, GpuRows, gpu_blocks, sizes_of
from kvtrace.formats.capture.recording import EVENTS, processes_of
from kvtrace.formats.capture.rows import ALL_COLUMNS, COLUMNS, InOrder, TaskRows, since
from kvtrace.formats.common import incoming
from kvtrace.formats.common.importing import Imported
from kvtrace.trace.header import Capture
from kvtrace.trace.interleave import interleaved
from kvtrace.units import MS_NS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from kvtrace.formats.capture.events import Sizes
    from kvtrace.formats.capture.recording import Part, Process
    from kvtrace.formats.common.importing import ImportOptions

OPTIONS = ("model", "dtype", "block_size_bytes")
MANY = True
MOST_LISTED = 1000
"""Gaps and damages that a header lists; the notes count all."""
STEP_NS = MS_NS
"""Change of the wall clock against the monotonic one that is told: more than any drift in a day."""


def recognises(path: Path, start: bytes) -> bool:
    """Return whether a file is a recorder's."""
    return start.startswith(MAGIC)


def convert(paths: Sequence[Path], out: Path, options: ImportOptions) -> Imported:
    """Make a trace of a recording. Raises TraceError for files that can't be of one, or no rows."""
    check_writable(out, force=options.force)
    sizes = sizes_of(options.model, options.dtype, options.block_size_bytes)
    processes, headless = processes_of(paths)
    blocks = {id(process): gpu_blocks(process) for process in processes if process.events}
    if not any(process.rows for process in processes):
        _check_events(paths, sum(blocks.values()), sizes, headless)
    streams, unsized = _streams(processes, blocks, sizes)
    zero_ns = min((stream.first_ns for stream in streams if stream.rows), default=0)
    capture = _capture(processes, zero_ns)
    log = incoming.Log(
        "capture",
        paths,
        COLUMNS,
        parameters={"engine": capture.engine},
        epoch_ns=zero_ns + processes[0].head.anchor.offset_ns,
        fields={"capture": capture, "dropped_rows": capture.dropped_rows},
    )
    merged = interleaved([iter(stream) for stream in streams], ALL_COLUMNS)
    shifted = (since(batch, zero_ns) for batch in merged)
    header, notes = incoming.write(log, shifted, out, force=options.force)
    unclear = sum((stream.unclear for stream in streams), unsized)
    return Imported(header, (*_notes(processes, headless), *incoming.counted(unclear), *notes))


def _check_events(
    paths: Sequence[Path], blocks: int, sizes: Sizes | None, headless: Sequence[Part]
) -> None:
    """Raise unless events alone make rows: TraceError without any, UsageError without sizes."""
    if lost := sum(part.rows for part in headless):
        raise TraceError(
            "no file with rows has a header", where=headless[0].path, got=f"{lost:,} rows",
            accepted="files whose header isn't damaged: it tells the engine and the clock",
        )  # fmt: skip
    if not blocks:
        raise TraceError(
            "no rows", where=paths[0].parent, got=f"{len(paths)} files",
            accepted="a recording of at least one storage task, or block in the GPU's cache",
        )  # fmt: skip
    if sizes is None:
        raise UsageError(
            "events don't tell how large a block is", where=paths[0].parent,
            accepted="--block-size BYTES, or --model NAME|config.json (and --dtype)",
        )  # fmt: skip


def _streams(
    processes: list[Process], blocks: dict[int, int], sizes: Sizes | None
) -> tuple[list[InOrder], Counter[str]]:
    """Return the rows of each process, and how many blocks have no rows for lack of sizes."""
    streams: list[InOrder] = []
    first, unsized = 0, Counter[str]()
    for process in processes:
        if process.rows:
            streams.append(TaskRows(process, first))
            first += process.tasks
        if blocks.get(id(process)) and sizes is not None:
            streams.append(GpuRows(process, first, sizes))
            first += process.events
        elif blocks.get(id(process)):
            unsized[NO_SIZES] += blocks[id(process)]
    return streams, unsized


def _capture(processes: list[Process], zero_ns: int) -> Capture:
    """Return what the header says of the recording; its times are the trace's."""
    heads = [process.head for process in processes]
    first = next((head for head in heads if head.engine != EVENTS), heads[0])
    ends = [process.end for process in processes]
    known = [end for end in ends if end is not None]
    guarded: Counter[str] = Counter()
    for end in known:
        guarded.update(end.guarded_errors)
    gaps = [
        {"until_ns": gap.until_mono_ns - zero_ns, "dropped_rows": gap.dropped_rows,
         "reason": gap.reason}
        for process in processes for gap in process.gaps
    ]  # fmt: skip
    torn = [
        {"part": part.path.name, "offset": damage.offset, "bytes": damage.length,
         "reason": damage.reason}
        for process in processes for part in process.parts for damage in part.damages
    ]  # fmt: skip
    anchors = [
        {"at_ns": anchor.mono_ns - zero_ns, "wall_ns": anchor.wall_ns, "width_ns": anchor.width_ns}
        for process in processes for anchor in (process.anchors[0], process.anchors[-1])
    ]  # fmt: skip
    return Capture(
        engine=first.engine,
        engine_version=", ".join(sorted({head.engine_version for head in heads} - {""})),
        plugin_version=", ".join(sorted({p.head.plugin_version for p in processes})),
        processes=len(processes),
        boot_id=first.boot_id,
        anchors=anchors[:MOST_LISTED],
        complete_is=first.complete_is,
        not_visible=first.not_visible,
        dropped_rows=sum(process.dropped_rows for process in processes),
        gaps=gaps[:MOST_LISTED],
        bus_events_dropped=sum(end.bus_dropped or 0 for end in known),
        write_errors=sum(end.write_errors for end in known),
        guarded_errors=dict(guarded),
        torn=torn[:MOST_LISTED],
        unfinished_processes=ends.count(None),
        adapter=_different(process.head.adapter for process in processes),
        key_check=first.key_check if len({p.head.key_check for p in processes}) == 1 else None,
    )


def _different(adapters: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each adapter's words once."""
    return list({json.dumps(adapter, sort_keys=True): adapter for adapter in adapters}.values())


def _notes(processes: list[Process], headless: list[Part]) -> list[str]:
    """Return notes on losses: drops, gaps, damage, processes without an end, clock steps."""
    secrets = len({process.head.key_check for process in processes})
    unfinished = sum(process.end is None for process in processes)
    damages = [d for p in processes for part in p.parts for d in part.damages]
    notes = incoming.counted(
        {
            "rows dropped while recording": sum(p.dropped_rows for p in processes),
            "rows written and not in the files any more": sum(p.lost_rows for p in processes),
            "files missing between those here": sum(p.missing_parts for p in processes),
            "frames cut off at the end of a file": sum(d.torn for d in damages),
            "damaged places inside files": sum(not d.torn for d in damages),
            "bytes damaged or cut off": sum(d.length for d in damages),
        }
    )
    if unfinished:
        notes.append(
            f"{unfinished:,} of {len(processes):,} processes have no end in their files (killed or "
            "still recording): their last rows, of a fraction of a second, are missing"
        )
    if secrets > 1:
        notes.append(
            f"{secrets} secrets: an object of two processes counts as two; give all one secret"
        )
    notes += [
        f"{part.path.name} left out, {part.rows:,} rows: no header in it" for part in headless
    ]
    for process in processes:
        offsets = [anchor.offset_ns for anchor in process.anchors]
        if max(offsets) - min(offsets) > STEP_NS:
            step_ms = (max(offsets) - min(offsets)) / MS_NS
            notes.append(f"the wall clock moved by {step_ms:,.1f} ms against the times here")
            break
    return notes
