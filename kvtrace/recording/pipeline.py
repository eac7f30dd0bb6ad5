"""Makes a trace: source → blocks → hierarchy → layout → writer."""

from __future__ import annotations

import functools
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from kvtrace import arguments, sources
from kvtrace.errors import UsageError
from kvtrace.files.drafts import draft_path
from kvtrace.files.outputs import check_apart
from kvtrace.formats.mlperf_csv.csvfile import CsvWriter, is_csv
from kvtrace.hierarchy import nodes
from kvtrace.hierarchy.events import HierarchyStats
from kvtrace.hierarchy.service import service
from kvtrace.placement.rows import COLUMNS
from kvtrace.placement.summary import NeedCounter
from kvtrace.recording.config import RecordConfig
from kvtrace.recording.fitting import Outcome, refitted
from kvtrace.recording.parts import Recording
from kvtrace.recording.restart import Restarted
from kvtrace.recording.rows import RowRecording
from kvtrace.recording.sampling import sampled
from kvtrace.recording.simulation import Simulation
from kvtrace.recording.sizing import search
from kvtrace.trace.counting import TotalsCounter
from kvtrace.trace.header import RESIDENT_DTYPE, Header, SourceInfo
from kvtrace.trace.parts import PartsWriter
from kvtrace.trace.reader import open_trace
from kvtrace.trace.schema import Op, Tier
from kvtrace.trace.writer import TraceWriter

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from numpy.typing import NDArray

    from kvtrace.layouts import Layout
    from kvtrace.placement.extents import Need
    from kvtrace.recording.sizing import Trial


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a recording is: rows made and virtual time reached."""

    rows: int
    virtual_ns: int
    end_ns: int | None


@dataclass(frozen=True, slots=True, repr=False)
class Recorded:
    """A finished recording."""

    path: Path
    header: Header
    stats: HierarchyStats
    needs: dict[Tier, Need] | None = None
    """Of a dry run: what each tier needs of a target."""

    def __repr__(self) -> str:
        return f"<Recorded {self.path}: {self.header.totals.rows:,} rows>"


class _DryWriter:
    """Takes rows like a writer, counts them and keeps nothing."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self._header = header
        self._counter = TotalsCounter()
        self._needs = NeedCounter()
        self.resident = np.zeros(0, RESIDENT_DTYPE)
        self._begun = False

    def append(self, columns: dict[str, NDArray[Any]]) -> None:
        if not self._begun:
            self._needs.add_resident(self.resident)
            self._begun = True
        self._counter.update(columns)
        self._needs.add({name: columns[name] for name in COLUMNS})

    def needs(self) -> dict[Tier, Need]:
        return self._needs.needs()

    def close(self, **header_fields: object) -> Header:
        return self._header.model_copy(update={"totals": self._counter.totals(), **header_fields})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


_Writer = TraceWriter | CsvWriter | _DryWriter


def _writer(recording: Recording, path: Path, *, force: bool, dry_run: bool) -> _Writer:
    if not is_csv(path) and path.suffix not in (".parquet", ""):
        raise UsageError(
            "unknown kind of output",
            where=path,
            accepted=".parquet, .csv, .csv.zst or, without a suffix, a directory",
        )
    if is_csv(path) and (recording.config.warmup or recording.config.role == "decode"):
        raise UsageError(
            "a CSV can't say what is there at the start", where=path, accepted=".parquet"
        )
    if dry_run:
        return _DryWriter(path, recording.header())
    if is_csv(path):
        return CsvWriter(path, force=force, header=recording.header())
    background = recording.workers > 1
    columns = recording.columns()
    kind = TraceWriter if path.suffix else PartsWriter
    return kind(
        path, recording.header(), columns, force=force, background=background, complete=True
    )


def record(
    config: RecordConfig,
    out: str | os.PathLike[str],
    *,
    workers: int = 1,
    force: bool = False,
    dry_run: bool = False,
    progress: Callable[[Progress], None] | None = None,
    told: Callable[[Trial], None] | None = None,
    fitting: Callable[[str], None] = lambda text: None,
) -> Recorded:
    """Make the trace that `config` describes at `out`; return its header and counts.

    With `dry_run` everything is simulated and counted, and nothing is written. `told` hears of the
    trials that `users: auto` makes, `fitting` of those that `fit` makes. Raises KvtraceError, and
    leaves nothing behind, if it can't be
    made or comes out empty.
    """
    path = arguments.path(out, "out")
    arguments.instance(config, "config", RecordConfig, "what kvtrace.load_config returns")
    arguments.count(workers, "workers", most=1 << 10)
    arguments.flag(force, "force")
    arguments.flag(dry_run, "dry_run")
    for name, called in (("progress", progress), ("told", told)):
        if called is not None and not callable(called):
            raise arguments.wrong(name, called, "a function, or None")
    check_apart([path], config.input_paths)
    if sources.makes_rows(config.source.name):
        return _record_rows(
            RowRecording(config), path, force=force, dry_run=dry_run, progress=progress
        )
    if config.source.users == "auto":
        config = search(config, Recording, told)
    config, smaller = refitted(config, _measure, fitting)
    if config.nodes > 1:
        return _record_nodes(config, path, workers, force=force, dry_run=dry_run, progress=progress)
    recording = Recording(config, workers=workers)
    with _writer(recording, path, force=force, dry_run=dry_run) as writer:
        simulation = _write(recording, writer, progress)
        stats = simulation.stats()
        header = writer.close(
            source=recording.source.info,
            statistics=_statistics(config, stats, recording, simulation.restarted())
            | ({} if smaller is None else {"shrunk": smaller.document()}),
        )
    return Recorded(path, header, stats, _needs_of(writer))


def _record_rows(
    recording: RowRecording,
    path: Path,
    *,
    force: bool,
    dry_run: bool,
    progress: Callable[[Progress], None] | None,
) -> Recorded:
    """Record the rows that a source makes itself."""
    rows = 0
    with _row_writer(recording, path, force=force, dry_run=dry_run) as writer:
        writer.resident = recording.resident()
        for columns in recording.rows():
            writer.append(columns)
            rows += len(columns["timestamp"])
            if progress is not None:
                end_ns = recording.config.duration
                progress(Progress(rows, int(columns["timestamp"][-1]), end_ns))
        if rows == 0:
            raise UsageError(
                "the recording came out empty", where=path, got="0 rows",
                accepted="queries that read something", hint="lengthen --duration",
            )  # fmt: skip
        header = writer.close(statistics=recording.source.statistics())
    requests = header.statistics["requests"]
    return Recorded(path, header, HierarchyStats.of_requests(requests), _needs_of(writer))


def _row_writer(
    recording: RowRecording, path: Path, *, force: bool, dry_run: bool
) -> TraceWriter | _DryWriter:
    if path.suffix not in (".parquet", ""):
        raise UsageError(
            "a CSV has no offsets",
            where=path,
            accepted=".parquet or, without a suffix, a directory",
        )
    if dry_run:
        return _DryWriter(path, recording.header())
    kind = TraceWriter if path.suffix else PartsWriter
    complete = recording.source.complete
    return kind(path, recording.header(), recording.columns(), force=force, complete=complete)


def _measure(config: RecordConfig) -> Outcome:
    """Simulate a recording without writing it, and return its totals."""
    made = record(config, "fitting.parquet", dry_run=True)
    assert made.needs is not None
    cells = [cell for cell in made.header.totals.cells if cell.tier == Tier.NVME.label]
    return Outcome(
        needed_bytes=made.needs[Tier.NVME].size_bytes if Tier.NVME in made.needs else 0,
        requests=made.stats.requests,
        hit_ratio=made.header.statistics["hit_ratio"],
        read_bytes=sum(cell.bytes for cell in cells if cell.op == Op.READ.label),
        write_bytes=sum(cell.bytes for cell in cells if cell.op == Op.WRITE.label),
    )


def _needs_of(writer: _Writer) -> dict[Tier, Need] | None:
    return writer.needs() if isinstance(writer, _DryWriter) else None


def _write(
    recording: Recording,
    writer: _Writer,
    progress: Callable[[Progress], None] | None = None,
) -> Simulation:
    """Write all rows of a recording; return its simulation. Raises UsageError if there are none."""
    simulation, rows = Simulation(recording), 0
    for columns in recording.batches(simulation):
        if rows == 0 and not isinstance(writer, CsvWriter):
            writer.resident = _resident(recording.layout, simulation.resident)
        writer.append(columns)
        rows += len(columns["timestamp"])
        if progress is not None:
            progress(Progress(rows, int(columns["timestamp"][-1]), recording.end_ns))
    if rows == 0:
        # A node's own file is a draft: its path would tell the user nothing.
        where = f"node {recording.node}" if recording.config.nodes > 1 else writer.path
        raise UsageError(
            "the recording came out empty",
            where=where,
            got=f"{simulation.stats().requests} requests, 0 rows",
            accepted="requests with at least one full block",
            hint="lengthen --duration or make --block-tokens smaller",
        )
    return simulation


def _record_nodes(
    config: RecordConfig,
    path: Path,
    workers: int,
    *,
    force: bool,
    dry_run: bool,
    progress: Callable[[Progress], None] | None,
) -> Recorded:
    """Record each node in a process of its own, then merge them by time."""
    whole = Recording(config)
    with (
        _writer(whole, path, force=force, dry_run=dry_run) as writer,
        tempfile.TemporaryDirectory(
            prefix=draft_path(path, ".nodes-").name, dir=None if dry_run else path.parent
        ) as folder,
    ):
        parts = [Path(folder) / f"{node:05}.parquet" for node in range(config.nodes)]
        recorded_nodes = _each_node(config, parts, workers)
        rows = 0
        with ExitStack() as stack:
            traces = [stack.enter_context(open_trace(part)) for part in parts]
            if not isinstance(writer, CsvWriter):
                writer.resident = nodes.residents(traces)
            for columns in nodes.merged(traces):
                writer.append(columns)
                rows += len(columns["timestamp"])
                if progress is not None:
                    progress(Progress(rows, int(columns["timestamp"][-1]), whole.end_ns))
        stats = functools.reduce(HierarchyStats.plus, [node.stats for node in recorded_nodes])
        restarts = [node.restarted for node in recorded_nodes if node.restarted is not None]
        restarted = functools.reduce(Restarted.plus, restarts) if restarts else None
        # Each node has read all of the input.
        statistics = _statistics(config, stats, whole, restarted)
        header = writer.close(source=recorded_nodes[0].source, statistics=statistics)
    return Recorded(path, header, stats, _needs_of(writer))


@dataclass(frozen=True, slots=True)
class _OfNode:
    """What a node counted, and what its source tells."""

    stats: HierarchyStats
    source: SourceInfo
    restarted: Restarted | None


def _each_node(config: RecordConfig, parts: list[Path], workers: int) -> list[_OfNode]:
    """Record each node to its part; return what each counted and what its source tells."""
    tasks = ([config] * len(parts), range(len(parts)), parts)
    if workers == 1:
        return list(map(_record_node, *tasks))
    # Forked from a process with threads, such as those of Arrow, a child may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(parts)), context) as pool:
        return list(pool.map(_record_node, *tasks))


def _record_node(config: RecordConfig, node: int, path: Path) -> _OfNode:
    recording = Recording(config, node=node)
    with TraceWriter(path, recording.header(), recording.columns(), complete=True) as writer:
        simulation = _write(recording, writer)
    return _OfNode(simulation.stats(), recording.source.info, simulation.restarted())


def _resident(layout: Layout, held: NDArray[np.int64]) -> NDArray[np.void]:
    objects = layout.resident(held)
    resident = np.zeros(len(objects["key"]), RESIDENT_DTYPE)
    for name, values in objects.items():
        resident[name] = values
    return resident


def _statistics(
    config: RecordConfig,
    stats: HierarchyStats,
    recording: Recording,
    restarted: Restarted | None,
) -> dict[str, Any]:
    sample = sampled(config, stats)
    present = [tier.tier for tier in recording.spec.tiers if tier.capacity_bytes]
    blocks, layout = max(1, stats.blocks), recording.layout
    served = service(stats, recording.config)
    return {
        "requests": stats.requests,
        "blocks": stats.blocks,
        "unique_blocks": stats.unique_blocks,
        "objects": stats.unique_blocks * len(layout.parts)
        + stats.unique_states * len(layout.state_ranks),
        "ideal_prefix_hit": stats.ideal_hits / blocks,
        "hit_ratio": {tier.label: stats.hits[tier] / blocks for tier in present},
        "hit_blocks": {tier.label: stats.hits[tier] for tier in present},
        "ideal_hit_blocks": stats.ideal_hits,
        **(_shared(stats) if recording.cutter.tells_shared else {}),
        "token_hit_ratio": stats.hit_tokens / max(1, stats.prompt_tokens),
        "prompt_tokens": stats.prompt_tokens,
        "generated_tokens": stats.generated_tokens,
        "peak_bytes": {tier.label: stats.peak_bytes[tier] for tier in present},
        **({} if served is None else {"service": served}),
        **({} if restarted is None else {"restart": restarted.document()}),
        **({} if sample is None else {"sampled": sample}),
    }


def _shared(stats: HierarchyStats) -> dict[str, int]:
    """Return what was asked of blocks that sessions share: system prompts, documents."""
    return {
        "shared_blocks": stats.shared_blocks,
        "shared_hit_blocks": stats.shared_hits,
        "shared_hit_tokens": stats.shared_hit_tokens,
        "shared_ideal_hit_blocks": stats.shared_ideal_hits,
    }
