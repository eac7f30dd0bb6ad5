"""Makes a trace: source → blocks → hierarchy → layout → writer."""

from __future__ import annotations

import functools
import multiprocessing
import tempfile
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from kvtrace import layouts, nodes, sources
from kvtrace.blocks import HashedBlocks, SessionBlocks, SessionTurns
from kvtrace.csvfile import CsvWriter, is_csv
from kvtrace.errors import UsageError
from kvtrace.header import RESIDENT_DTYPE, Header, Producer, SourceInfo, TierInfo
from kvtrace.hierarchy import HierarchySpec, HierarchyStats, StateSize, TierSpec
from kvtrace.inputs.paths import input_files
from kvtrace.layouts import Geometry, Layout
from kvtrace.model import Model, load_model
from kvtrace.reader import open_trace
from kvtrace.schema import Tier
from kvtrace.simulation import Simulation
from kvtrace.sizing import search
from kvtrace.sources import SourceContext
from kvtrace.units import UNLIMITED, format_bytes
from kvtrace.version import VERSION
from kvtrace.writer import PartsWriter, TotalsCounter, TraceWriter

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from kvtrace.blocks import Cutter
    from kvtrace.config import RecordConfig
    from kvtrace.hierarchy import BlockEvents, CutRequests
    from kvtrace.request import RequestBatch, Source
    from kvtrace.sizing import Trial

DEFAULT_DURATION_NS = 60 * 1_000_000_000
"""Virtual time of a synthetic recording that names neither duration nor requests."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a recording is: rows made and virtual time reached."""

    rows: int
    virtual_ns: int
    end_ns: int | None


@dataclass(frozen=True, slots=True)
class Recorded:
    """A finished recording."""

    path: Path
    header: Header
    stats: HierarchyStats


class Recording:
    """A configuration resolved into its parts, ready to run. Raises KvtraceError if it can't be."""

    def __init__(self, config: RecordConfig, *, workers: int = 1, node: int = 0) -> None:
        assert config.source.users != "auto", "`record` searches for the number of users"
        self.config = config
        self.workers = workers
        self.node = node
        self.model = load_model(config.model)
        self.layout = _layout(config, self.model)
        self.end_ns = _end_ns(config)
        self.source = sources.create(
            SourceContext(
                config=config.source,
                inputs=input_files(config.source.input),
                seed=config.seed,
                end_ns=UNLIMITED if config.warmup else self.end_ns or UNLIMITED,
                by_turn=self.layout.block_tokens is None,
                workers=workers,
            )
        )
        self.stores_generated = _stores_generated(config, self.source, self.layout)
        self.cutter = _cutter(self.source, self.layout, config, self.stores_generated)
        self.spec = _hierarchy_spec(config, self.layout, self.end_ns)

    def header(self) -> Header:
        """Return the header of the trace, before anything is counted."""
        config = self.config
        resolved = config.model_dump(mode="json", exclude={"source", "sizing"})
        # Paths tell of a machine: files are told by their sha256, in the source's own part.
        told = {"name", *sources.keys(config.source.name)} - {"tokenizer"}
        resolved["source"] = config.source.model_dump(mode="json", include=told)
        resolved["model"] = self.model.name
        return Header(
            producer=Producer(version=VERSION),
            source=self.source.info,
            model=self._model_info(),
            layout=self._layout_info(),
            tiers=[self._tier_info(spec) for spec in self.spec.tiers if spec.capacity_bytes],
            write_policy=config.write_policy,
            tensor_parallel=config.tensor_parallel,
            num_gpus=config.gpus,
            nodes=config.nodes,
            ranks="one" if {part.rank for part in self.layout.parts} == {0} else "all",
            seed=config.seed,
            config=resolved,
        )

    def _model_info(self) -> dict[str, Any]:
        model, dtype = self.model, self.config.dtype or self.model.dtype
        return model.model_dump(mode="json") | {
            "dtype": dtype,
            "bytes_per_token": model.rank_bytes_per_token(1, dtype),
            "rank_bytes_per_token": model.rank_bytes_per_token(self.config.tensor_parallel, dtype),
            "replicated": model.replicated,
        }

    def _layout_info(self) -> dict[str, Any]:
        return {
            "name": self.layout.name,
            "block_tokens": self.layout.block_tokens,
            "objects_per_block": len(self.layout.parts),
            "object_bytes_per_token": self.layout.parts[0].token_bytes,
            "align_bytes": self.layout.align_bytes,
            "stored_bytes_per_token": self.layout.stored_token_bytes,
            "emitted_bytes_per_token": self.layout.emitted_token_bytes,
            "store_generated": self.stores_generated,
        }

    def _tier_info(self, spec: TierSpec) -> TierInfo:
        unlimited = spec.capacity_bytes >= UNLIMITED
        return TierInfo(
            name=spec.tier.label,
            capacity_bytes=None if unlimited else spec.capacity_bytes,
            high_watermark_ratio=spec.high_watermark_ratio,
            low_watermark_ratio=spec.low_watermark_ratio,
            eviction=spec.eviction,
            occupancy_factor=self.layout.occupancy_factor(spec.tier),
        )

    def columns(self) -> tuple[str, ...]:
        """Return the optional columns that this recording knows."""
        return ("request", "step", "rank", "block", *sorted(self.source.known))

    def batches(self, simulation: Simulation) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the rows of the trace, expanded ahead by threads where there are workers."""
        if self.workers == 1:
            yield from (self.layout.expand(part) for part in simulation.events())
        else:
            yield from _expand_ahead(self.layout, simulation.events(), self.workers)

    def again(self) -> Recording:
        """Return the same recording, its source at the start again."""
        return Recording(self.config, workers=self.workers, node=self.node)

    def requests(self) -> Iterator[CutRequests]:
        """Yield the requests that come to this node, with their blocks."""
        return (self.cutter.cut(self._routed(batch)) for batch in self.source.batches())

    def _routed(self, batch: RequestBatch) -> RequestBatch:
        """Return the node's share: its users, or sessions, in turn."""
        nodes = self.config.nodes
        if nodes == 1:
            return batch
        of = batch.session if self.config.source.users is None else batch.chain
        return batch.where(of % nodes == self.node)

    def more(self, chain: int) -> CutRequests | None:
        """Return the next requests of a chain."""
        batch = self.source.more(chain)
        return None if batch is None else self.cutter.cut(batch)


def _expand_ahead(
    layout: Layout, events: Iterator[BlockEvents], workers: int
) -> Iterator[dict[str, NDArray[Any]]]:
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[dict[str, NDArray[Any]]]] = deque()
        for part in events:
            ahead.append(pool.submit(layout.expand, part))
            if len(ahead) > workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _layout(config: RecordConfig, model: Model) -> Layout:
    gpus, parallel = config.gpus, config.tensor_parallel
    if parallel > gpus or gpus % parallel:
        raise UsageError(
            "tensor parallelism doesn't fit the GPUs",
            where="--tensor-parallel",
            got=f"{parallel} on {gpus} GPUs",
            accepted="a divisor of the number of GPUs",
            hint=f"set --num-gpus to a multiple of {parallel}",
        )
    return layouts.create(
        config.layout,
        Geometry(
            rank_token_bytes=model.rank_bytes_per_token(parallel, config.dtype),
            replicated=model.replicated,
            tensor_parallel=parallel,
            rank_key_bytes=model.key_token_bytes(parallel, config.dtype),
            layer_token_bytes=model.layer_token_bytes(parallel, config.dtype),
            rank_state=StateSize(*model.state(parallel, config.dtype)),
            block_tokens=config.block_tokens,
            ranks=config.ranks,
        ),
    )


def _end_ns(config: RecordConfig) -> int | None:
    if config.duration is not None:
        return config.duration
    endless = config.source.name == "synthetic" and config.requests is None
    return DEFAULT_DURATION_NS if endless else None


def _stores_generated(config: RecordConfig, source: Source, layout: Layout) -> bool:
    possible = source.block_tokens is None and layout.stores_generated
    possible = possible and config.role != "prefill"
    if config.store_generated == "yes" and not possible:
        raise UsageError(
            "can't store generated tokens",
            where="--store-generated yes",
            got=f"source {config.source.name}, layout {layout.name}",
            accepted="a source whose sessions know their tokens, a layout of token blocks and a "
            "node that generates",
        )
    return possible if config.store_generated == "auto" else config.store_generated == "yes"


def _cutter(source: Source, layout: Layout, config: RecordConfig, generated: bool) -> Cutter:
    interval = config.state_interval
    if interval and not layout.state:
        raise UsageError(
            "no state to keep",
            where="--state-interval",
            got=f"model {config.model}, layout {layout.name}",
            accepted="a hybrid model (windows, linear attention) and a layout of token blocks",
        )
    if layout.block_tokens is None:
        return SessionTurns()
    if source.block_tokens is None:
        return SessionBlocks(layout.block_tokens, generated=generated, state_interval=interval)
    return HashedBlocks(source.block_tokens, layout.block_tokens, state_interval=interval)


def _hierarchy_spec(config: RecordConfig, layout: Layout, end_ns: int | None) -> HierarchySpec:
    tiers = []
    for tier in Tier:
        limits = config.tiers.of(tier)
        if limits.low_watermark > limits.high_watermark:
            raise UsageError(
                "low watermark above the high one",
                where=f"tier {tier.label}",
                got=f"{limits.low_watermark} > {limits.high_watermark}",
            )
        factor = config.gpus if tier is Tier.GPU else 1
        spec = TierSpec(
            tier=tier,
            capacity_bytes=min(UNLIMITED, limits.capacity * factor),
            token_bytes=layout.node_token_bytes(tier),
            block_bytes=layout.padding_bytes(tier),
            state=layout.node_state(),
            high_watermark_ratio=limits.high_watermark,
            low_watermark_ratio=limits.low_watermark,
            eviction=limits.eviction or config.eviction,
        )
        _check_capacity(spec, layout)
        tiers.append(spec)
    if not any(spec.capacity_bytes for spec in tiers):
        raise UsageError(
            "no tier at all", where="tiers", accepted="a capacity above 0 for at least one"
        )
    return HierarchySpec(
        tiers=tuple(tiers),
        write_through=config.write_policy == "write-through",
        promote=config.promotes,
        tail_first=config.touch_order == "tail-first",
        second_use=config.admission == "second-use",
        hybrid=bool(layout.state),
        lookups=config.lookups,
        generation_ns=config.generation_ns,
        prefill_ps=config.prefill_ps,
        reread_tokens=0 if config.role == "prefill" else layout.reread_tokens,
        max_requests=config.requests or UNLIMITED,
        end_ns=end_ns or UNLIMITED,
    )


def _check_capacity(spec: TierSpec, layout: Layout) -> None:
    block_bytes = spec.token_bytes * (layout.block_tokens or 1) + spec.block_bytes
    limit_bytes = spec.limit_bytes(spec.high_watermark_ratio)
    if spec.capacity_bytes and limit_bytes < block_bytes:
        raise UsageError(
            "capacity smaller than one block",
            where=f"tier {spec.tier.label}",
            got=f"{format_bytes(limit_bytes)} up to its high watermark",
            accepted=f"at least {format_bytes(block_bytes)}, or 0 for no such tier",
        )


class _DryWriter:
    """Takes rows like a writer, counts them and keeps nothing."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self._header = header
        self._counter = TotalsCounter()
        self.resident = np.zeros(0, RESIDENT_DTYPE)

    def append(self, columns: dict[str, NDArray[Any]]) -> None:
        self._counter.update(columns)

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
        return CsvWriter(path, force=force)
    background = recording.workers > 1
    columns = recording.columns()
    kind = TraceWriter if path.suffix else PartsWriter
    return kind(path, recording.header(), columns, force=force, background=background)


def record(
    config: RecordConfig,
    out: str | os.PathLike[str],
    *,
    workers: int = 1,
    force: bool = False,
    dry_run: bool = False,
    progress: Callable[[Progress], None] | None = None,
    told: Callable[[Trial], None] | None = None,
) -> Recorded:
    """Make the trace that `config` describes at `out`; return its header and counts.

    With `dry_run` everything is simulated and counted, and nothing is written. `told` hears of the
    trials that `users: auto` makes. Raises KvtraceError, and leaves nothing behind, if it can't be
    made or comes out empty.
    """
    if config.source.users == "auto":
        config = search(config, Recording, told)
    path = Path(out)
    if config.nodes > 1:
        return _record_nodes(config, path, workers, force=force, dry_run=dry_run, progress=progress)
    recording = Recording(config, workers=workers)
    with _writer(recording, path, force=force, dry_run=dry_run) as writer:
        simulation = _write(recording, writer, progress)
        stats = simulation.stats()
        header = writer.close(
            source=recording.source.info, statistics=_statistics(stats, recording)
        )
    return Recorded(path, header, stats)


def _write(
    recording: Recording,
    writer: _Writer,
    progress: Callable[[Progress], None] | None = None,
) -> Simulation:
    """Write all rows of a recording; return its simulation. Raises UsageError if there are none."""
    simulation, rows = Simulation(recording), 0
    for columns in recording.batches(simulation):
        writer.append(columns)
        rows += len(columns["timestamp"])
        if progress is not None:
            progress(Progress(rows, int(columns["timestamp"][-1]), recording.end_ns))
    if rows == 0:
        node = f"node {recording.node}: " if recording.config.nodes > 1 else ""
        raise UsageError(
            "the recording came out empty",
            where=writer.path,
            got=f"{node}{simulation.stats().requests} requests, 0 rows",
            accepted="requests with at least one full block",
            hint="lengthen --duration or make --block-tokens smaller",
        )
    if not isinstance(writer, CsvWriter):
        writer.resident = _resident(recording.layout, simulation.resident)
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
            prefix=f".{path.name}.nodes-", dir=None if dry_run else path.parent
        ) as folder,
    ):
        parts = [Path(folder) / f"{node:05}.parquet" for node in range(config.nodes)]
        found = _each_node(config, parts, workers)
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
        stats = functools.reduce(HierarchyStats.plus, [stats for stats, _ in found])
        # Each node has read all of the input.
        header = writer.close(source=found[0][1], statistics=_statistics(stats, whole))
    return Recorded(path, header, stats)


_OfNode = tuple[HierarchyStats, SourceInfo]


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
    with TraceWriter(path, recording.header(), recording.columns()) as writer:
        return _write(recording, writer).stats(), recording.source.info


def _resident(layout: Layout, held: NDArray[np.int64]) -> NDArray[np.void]:
    objects = layout.resident(held)
    resident = np.zeros(len(objects["key"]), RESIDENT_DTYPE)
    for name, values in objects.items():
        resident[name] = values
    return resident


def _statistics(stats: HierarchyStats, recording: Recording) -> dict[str, Any]:
    present = [tier.tier for tier in recording.spec.tiers if tier.capacity_bytes]
    blocks, layout = max(1, stats.blocks), recording.layout
    return {
        "requests": stats.requests,
        "blocks": stats.blocks,
        "unique_blocks": stats.unique_blocks,
        "objects": stats.unique_blocks * len(layout.parts)
        + stats.unique_states * len(layout.state_ranks),
        "ideal_prefix_hit": stats.ideal_hits / blocks,
        "hit_ratio": {tier.label: stats.hits[tier] / blocks for tier in present},
        "hit_blocks": {tier.label: stats.hits[tier] for tier in present},
        "token_hit_ratio": stats.hit_tokens / max(1, stats.prompt_tokens),
        "prompt_tokens": stats.prompt_tokens,
        "generated_tokens": stats.generated_tokens,
        "peak_bytes": {tier.label: stats.peak_bytes[tier] for tier in present},
    }
