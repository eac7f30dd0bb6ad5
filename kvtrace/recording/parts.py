"""A recording's parts, from its configuration: source, model, layout, hierarchy, header."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from kvtrace import layouts, sources
from kvtrace.errors import UsageError
from kvtrace.hierarchy.blocks import HashedBlocks, SessionBlocks, SessionTurns
from kvtrace.hierarchy.hierarchy import EVENTS_PER_CALL
from kvtrace.hierarchy.spec import NO_STATE, HierarchySpec, StateSize, TierSpec
from kvtrace.layouts import Geometry, Layout
from kvtrace.models import Model, load_model
from kvtrace.models.summary import number
from kvtrace.recording.config import DEFAULT_DURATION_NS
from kvtrace.requests.paths import input_files
from kvtrace.sources import SourceContext
from kvtrace.trace.header import Header, Producer, TierInfo
from kvtrace.trace.schema import Tier
from kvtrace.units import UNLIMITED, format_bytes
from kvtrace.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from kvtrace.hierarchy.blocks import Cutter
    from kvtrace.hierarchy.events import BlockEvents
    from kvtrace.hierarchy.hierarchy import CutRequests
    from kvtrace.recording.config import RecordConfig
    from kvtrace.recording.simulation import Simulation
    from kvtrace.requests.request import RequestBatch, Source


class Recording:
    """A configuration resolved into its parts, ready to run. Raises KvtraceError if it can't be."""

    def __init__(self, config: RecordConfig, *, workers: int = 1, node: int = 0) -> None:
        assert config.source.users != "auto", "`record` searches for the number of users"
        self.config = config
        self.workers = workers
        self.node = node
        self.model = load_model(config.model)
        if config.layers is not None:
            self.model = self.model.thinned(config.layers)
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
        accepted = {"name", *sources.keys(config.source.name)} - {"tokenizer"}
        resolved["source"] = config.source.model_dump(mode="json", include=accepted)
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
            ranks="one" if self.layout.emits_rank_0 else "all",
            seed=config.seed,
            config=resolved,
        )

    def _model_info(self) -> dict[str, Any]:
        model, dtype = self.model, self.config.dtype or self.model.dtype
        return model.model_dump(mode="json", exclude={"cache_note", "compute", "query_heads"}) | {
            "dtype": dtype,
            "bytes_per_token": number(model.rank_bytes_per_token(1, dtype)),
            "rank_bytes_per_token": number(
                model.rank_bytes_per_token(self.config.tensor_parallel, dtype)
            ),
            "replicated": model.replicated,
            "notes": model.notes_on(self.config.tensor_parallel, self.config.dtype),
        }

    def _layout_info(self) -> dict[str, Any]:
        parts = self.layout.parts
        return {
            "name": self.layout.name,
            "block_tokens": self.layout.block_tokens,
            "objects_per_block": len(parts),
            "object_bytes_per_token": number(parts[0].token_bytes if parts else 0),
            "align_bytes": self.layout.align_bytes,
            "stored_bytes_per_token": number(self.layout.stored_token_bytes),
            "emitted_bytes_per_token": number(self.layout.emitted_token_bytes),
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
        """Yield the rows of the trace, expanded ahead by threads where there are workers.

        In parts: of some layouts a block becomes hundreds of rows.
        """
        at_once = max(1, EVENTS_PER_CALL // self.layout.objects)
        events = (part for made in simulation.events() for part in made.pieces(at_once))
        if self.workers == 1:
            yield from (self.layout.expand(part) for part in events)
        else:
            yield from _expand_ahead(self.layout, events, self.workers)

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
    model.check_parallel(parallel)
    state, shared = _state(model, parallel, config.dtype)
    return layouts.create(
        config.layout,
        Geometry(
            token=model.token(parallel, config.dtype),
            tensor_parallel=parallel,
            rank_key_bytes=model.key_token_bytes(parallel, config.dtype),
            layers=model.layer_tokens(parallel, config.dtype),
            rank_state=state,
            state_shared=shared,
            row_tokens=model.row_tokens,
            block_tokens=config.block_tokens,
            ranks=config.ranks,
        ),
    )


def _state(model: Model, parallel: int, dtype: str | None) -> tuple[StateSize, bool]:
    """Return the state that one rank keeps of a sequence, and whether all ranks keep the same."""
    constant, window, tokens = model.state(parallel, dtype)
    own, shared = constant.own + window.own, constant.shared + window.shared
    if own and shared and parallel > 1:
        raise UsageError(
            "some of the model's state is the same on all ranks and some isn't",
            where=f"model {model.name}",
            accepted="--tensor-parallel 1",
        )
    size = StateSize(int(constant.total), int(window.total), tokens)
    return size, bool(shared) and not own


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


def tier_spec(
    config: RecordConfig,
    tier: Tier,
    gpus: int,
    *,
    token_bytes: int,
    block_bytes: int = 0,
    state: StateSize = NO_STATE,
) -> TierSpec:
    """Return a node's tier as configured, for blocks of such a size."""
    limits = config.tiers.of(tier)
    return TierSpec(
        tier=tier,
        capacity_bytes=min(UNLIMITED, limits.capacity * (gpus if tier is Tier.GPU else 1)),
        token_bytes=token_bytes,
        block_bytes=block_bytes,
        state=state,
        high_watermark_ratio=limits.high_watermark,
        low_watermark_ratio=limits.low_watermark,
        eviction=limits.eviction or config.eviction,
    )


def policies(config: RecordConfig) -> dict[str, bool]:
    """Return what the configuration says of the hierarchy's policies, as HierarchySpec's fields."""
    return {
        "write_through": config.write_policy == "write-through",
        "promote": config.promotes,
        "tail_first": config.touch_order == "tail-first",
        "second_use": config.admission == "second-use",
    }


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
        spec = tier_spec(
            config,
            tier,
            config.gpus,
            token_bytes=layout.node_token_bytes(tier),
            block_bytes=layout.padding_bytes(tier),
            state=layout.node_state(tier),
        )
        _check_capacity(spec, layout)
        tiers.append(spec)
    if not any(spec.capacity_bytes for spec in tiers):
        raise UsageError(
            "no tier at all", where="tiers", accepted="a capacity above 0 for at least one"
        )
    return HierarchySpec(
        tiers=tuple(tiers),
        **policies(config),
        hybrid=bool(layout.state),
        lookups=config.lookups,
        generation_ns=config.generation_ns,
        prefill_ps=config.prefill_ps,
        prefill_slots=config.prefill_slots,
        decode_slots=config.decode_batch or 0,
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
