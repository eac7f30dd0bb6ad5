"""Whole recordings against a naive model: source, cutting, hierarchy, layout, row for row.

What is taken from the product are the requests of the source; blocks, tiers and objects are worked
out here, one token and one rule after the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtrace import plugins
from kvtrace.recording.config import load_config
from kvtrace.recording.parts import Recording
from kvtrace.recording.simulation import Simulation
from kvtrace.requests.source_config import ARRIVING
from kvtrace.trace.schema import Op, Phase, Tier
from tests.support.reference import Block, Reference, Request, Rules
from tests.support.reference_inputs import FILES

if TYPE_CHECKING:
    from kvtrace.requests.request import RequestBatch

TIERS = ("gpu", "cpu", "nvme", "object")
MIB = 1 << 20
EXAMPLES = 300


class Engine:
    """A model under a layout: objects of a block, by hand."""

    def __init__(self, model: str, layout: str, parallel: int, ranks: str) -> None:
        self.layout, self.parallel = layout, parallel
        self.mla = model == "deepseek-v3"
        layers, kv_heads, head = {
            "tiny-1b": (12, 4, 128), "deepseek-v3": (61, 1, 288), "gpt-oss-20b": (12, 8, 64)
        }[model]  # fmt: skip
        heads = 1 if self.mla else -(-kv_heads // parallel)
        self.keys = self.values = heads * head * 2
        self.layers = layers
        self.window = 128 if model == "gpt-oss-20b" and layout != "request" else 0
        self.copies = 1 if self.mla else parallel
        default = "one" if layout == "request" else "all"
        self.emitted = self.copies if (ranks or default) == "all" else 1
        own = {"lmcache": 256, "lmcache-layerwise": 256, "sglang": 64, "mooncake": 64, "request": 0}
        self.block_tokens = own.get(layout, 64 if self.mla else 16)

    @property
    def rank_token(self) -> int:
        return self.layers * (self.keys + self.values)

    def objects(self, tokens: int) -> list[tuple[int, int]]:
        """(size, rank) of each object of a block, or of a checkpoint behind -tokens."""
        if tokens < 0:
            state = min(-tokens, self.window) * self.rank_token
            if self.layout == "vllm":
                return [(-(-state * self.copies // 4096) * 4096, 0)]
            return [(state, rank) for rank in range(self.emitted)]
        if self.layout == "vllm":
            return [(-(-tokens * self.rank_token * self.copies // 4096) * 4096, 0)]
        found = []
        if self.layout == "lmcache-layerwise":
            for _ in range(self.layers):
                found += [(tokens * (self.keys + self.values), r) for r in range(self.emitted)]
            return found
        for rank in range(self.emitted):
            if self.layout == "mooncake" and not self.mla:
                found += [(tokens * self.layers * self.keys, rank)]
                found += [(tokens * self.layers * self.values, rank)]
            else:
                found += [(tokens * self.rank_token, rank)]
        return found

    def held(self, tier: int, tokens: int) -> int:
        """Bytes that the node holds of a block, on a tier."""
        if tokens < 0:
            emitted = sum(size for size, _ in self.objects(tokens))
            return emitted if self.layout == "vllm" else emitted * self.copies // self.emitted
        if tier == 0:
            return tokens * self.rank_token * self.parallel
        if self.layout == "vllm":
            return self.objects(tokens)[0][0]
        return tokens * self.rank_token * self.copies


class Sized(Reference):
    """The naive hierarchy with the sizes of an engine."""

    engine: Engine

    def size(self, tier: int, tokens: int) -> int:
        return self.engine.held(tier, tokens)


def blocks_of(batch: RequestBatch, row: int, engine: Engine, source_tokens: int | None,
              generated: bool) -> tuple[list[Block], list[Block]]:  # fmt: skip
    """Blocks of a request's prompt, and those that it generates."""
    size, shared = engine.block_tokens, batch.shared
    turn_input = int(batch.input_tokens[row])
    chunks: list[int] = []
    prefix = prefix_tokens = 0
    if shared is not None:
        chunks = shared.chunks.values[
            shared.chunks.begin[row] : shared.chunks.begin[row + 1]
        ].tolist()
        prefix, prefix_tokens = int(shared.prefix[row]), int(shared.prefix_tokens[row])
    if not size:
        return _turns(batch, row, chunks, prefix, prefix_tokens), []
    prompt: list[Block] = []
    for chunk in chunks:
        assert shared is not None
        per_chunk = shared.chunk_tokens // size
        prompt += [
            Block(("document", chunk, i), size, i == 0, i == per_chunk - 1, (i + 1) * size)
            for i in range(per_chunk)
        ]
    context = turn_input - (len(chunks) * shared.chunk_tokens if shared else 0)
    output = int(batch.output_tokens[row]) if generated else 0
    made: list[Block] = []
    if batch.block_ids is not None and source_tokens is not None:  # some list full blocks only
        listed = int(batch.block_ids.begin[row + 1] - batch.block_ids.begin[row])
        context = min(context, listed * source_tokens)
    for i in range((context + output) // size):
        end = (i + 1) * size
        ident = _ident(batch, row, i, size, source_tokens)
        if ident is None:
            owner = _owner(batch, row, end)
            ident = ("prompt", prefix, i) if end <= prefix_tokens else (owner, i)
        if end <= context:
            last = end + size > context
            prompt.append(Block(ident, size, i == 0, last, end))
        else:
            made.append(Block(ident, size, i == 0, at=end - context))
    return prompt, made


def _owner(batch: RequestBatch, row: int, end: int) -> tuple[str, int]:
    """Whose the block is that ends there: its last token's owner, or the session."""
    if batch.lineage is None:
        return ("session", int(batch.session[row]))
    starts, owners = batch.lineage.starts, batch.lineage.owners
    begin, stop = starts.begin[row : row + 2]
    parts = zip(starts.values[begin:stop].tolist(), owners.values[begin:stop].tolist(), strict=True)
    return ("owner", [owner for start, owner in parts if start < end][-1])


def _ident(batch: RequestBatch, row: int, i: int, size: int, source_tokens: int | None) -> Any:
    if source_tokens is None:
        return None
    assert batch.block_ids is not None
    begin, end = batch.block_ids.begin[row : row + 2]
    ids = batch.block_ids.values[begin:end].tolist()
    if size <= source_tokens:
        return (ids[i * size // source_tokens], i * size % source_tokens)
    return tuple(ids[: (i + 1) * size // source_tokens])


def _turns(batch: RequestBatch, row: int, chunks: list[int], prefix: int,
           prefix_tokens: int) -> list[Block]:  # fmt: skip
    found = [Block(("prompt", prefix), prefix_tokens, True)] if prefix_tokens else []
    assert batch.shared is not None or not chunks
    for chunk in chunks:
        assert batch.shared is not None
        found.append(Block(("document", chunk), batch.shared.chunk_tokens, True))
    turns = batch.turn_tokens
    lengths = [int(batch.input_tokens[row])]
    if turns is not None:
        lengths = turns.values[turns.begin[row] : turns.begin[row + 1]].tolist()
    session = int(batch.session[row])
    return found + [Block((session, i), tokens, True) for i, tokens in enumerate(lengths)]


def requests_of(recording: Recording, engine: Engine, end_ns: int) -> list[Request]:
    """The source's requests, those that arrive at a known time with their followers."""
    found: list[Request] = []
    first: list[Request] = []
    row_number = 0
    for batch in recording.source.batches():
        if batch.arrival_ns.max(initial=0) >= 0 and batch.arrival_ns[0] >= end_ns:
            break
        made = []
        late: set[int] = set()  # such requests, and those that follow them, never begin
        for row in range(len(batch)):
            if batch.arrival_ns[row] >= end_ns or row in late:
                late.add(row + int(batch.follow[row]))
                made.append(Request(int(batch.arrival_ns[row]), [], [], 0, 0, 0, 0, row=row_number))
                row_number += 1
                continue
            prompt, generated = blocks_of(
                batch, row, engine, recording.source.block_tokens, recording.stores_generated
            )
            made.append(
                Request(
                    int(batch.arrival_ns[row]),
                    prompt,
                    generated,
                    int(batch.input_tokens[row]),
                    int(batch.output_tokens[row]),
                    int(batch.session[row]),
                    int(batch.think_ns[row]),
                    row=row_number,
                )
            )
            row_number += 1
        for row, request in enumerate(made):
            if batch.follow[row] > 0:
                request.follower = made[row + int(batch.follow[row])]
        first += [request for request in made if request.arrival_ns >= 0]
        found += made
    return first


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    """Tiers × policies × layouts × sources."""
    layout = draw(
        st.sampled_from(("lmcache", "lmcache-layerwise", "vllm", "sglang", "mooncake", "request"))
    )
    options: dict[str, Any] = {
        "layout": layout,
        "model": draw(st.sampled_from(("tiny-1b", "deepseek-v3", "gpt-oss-20b"))),
        "tensor_parallel": draw(st.sampled_from((1, 2))),
        "ranks": None if layout == "vllm" else draw(st.sampled_from((None, "one", "all"))),
        "write_policy": draw(st.sampled_from(("waterfall", "write-through"))),
        "promotion": draw(st.sampled_from(("none", "on-hit"))),
        "admission": draw(st.sampled_from(("always", "second-use"))),
        "touch_order": draw(st.sampled_from(("tail-first", "in-order"))),
        "lookups": draw(st.booleans()),
        "generation": draw(st.sampled_from(("none", "fast"))),
        "prefill_rate": draw(st.sampled_from((None, 20_000, 2_000))),
        "seed": draw(st.integers(0, 1000)),
        "duration": "4s",
    }
    if options["prefill_rate"]:
        options["prefill_slots"] = draw(st.sampled_from((1, 3)))
    if options["generation"] != "none":
        options["decode_batch"] = draw(st.sampled_from((None, 2)))
    for tier in TIERS:
        sizes = (0, 60 * MIB, 300 * MIB, 2000 * MIB, 1 << 60)
        options[f"tiers.{tier}.capacity"] = draw(st.sampled_from(sizes))
        options[f"tiers.{tier}.eviction"] = draw(st.sampled_from(plugins.names(plugins.POLICY)))
    if not any(options[f"tiers.{tier}.capacity"] for tier in TIERS):
        options["tiers.cpu.capacity"] = 300 * MIB
    source = draw(st.sampled_from(("synthetic", "synthetic", *FILES)))
    if source != "synthetic":
        options |= {"source.name": source}
        options |= {"source.rate": 3} if source in ARRIVING else {}
    else:
        template = {"context_tokens": [100, 900], "generated_tokens": [10, 300], "think_s": [0, 1]}
        options |= {
            "source.rate": 3,
            "source.templates": {"one": template},
            "source.system_prompts": {"probability": 0.5, "count": 2, "tokens": [100, 600]},
            "source.rag": draw(
                st.sampled_from((None, {"probability": 0.5, "documents": 3, "top_k": 2}))
            ),
        }
    return options


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
@settings(max_examples=EXAMPLES // 4)
@given(options=configurations())
def test_recordings_are_those_of_the_naive_model(
    tmp_path_factory: pytest.TempPathFactory, part: int, options: dict[str, Any]
) -> None:
    """Tiers × policies × layouts × sources: the same rows. In parts, that run side by side."""
    options["seed"] = 4 * options["seed"] + part
    name = options.get("source.name")
    if name is not None:
        file, make = FILES[name]
        path = tmp_path_factory.mktemp("reference") / file
        make(path, options["seed"])
        options["source.input"] = [str(path)]
    config = load_config(None, options)
    parallel = config.tensor_parallel
    engine = Engine(config.model, config.layout, parallel, config.ranks or "")
    limits = {
        t: min((1 << 63) - 1, config.tiers.of(tier).capacity * (config.gpus if t == 0 else 1))
        for t, tier in enumerate(Tier)
    }
    largest = max(engine.block_tokens, 1)
    if any(0 < limits[t] < engine.held(t, largest) for t in limits):
        return  # refused, as a test of its own says
    recording = Recording(config)
    rules = Rules(
        token_bytes={}, high_bytes=limits, low_bytes=limits,
        policies={t: config.tiers.of(tier).eviction or "lru" for t, tier in enumerate(Tier)},
        state_bytes=1 if engine.window else 0,
        second_use=config.admission == "second-use", lookups=config.lookups,
        write_through=config.write_policy == "write-through", promote=config.promotes,
        tail_first=config.touch_order == "tail-first", generation_ns=config.generation_ns,
        prefill_ps=config.prefill_ps, prefill_slots=config.prefill_slots,
        decode_slots=config.decode_batch or 0,
        reread_tokens=32 if config.layout == "request" else 0,
        end_ns=config.duration or 0,
    )  # fmt: skip
    reference = Sized(rules)
    reference.engine = engine
    expected = reference.run(requests_of(recording, engine, rules.end_ns))
    rows = [
        (time, op, TIERS[tier], phase, request, step, 0 if op == "lookup" else size, rank)
        for time, op, tier, phase, key, tokens, request, step in expected
        for size, rank in engine.objects(tokens)
    ]
    if not rows:
        return
    again = recording.again()
    parts = list(again.batches(Simulation(again)))
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    words = {"op": Op, "tier": Tier, "phase": Phase}
    names = ("timestamp", "op", "tier", "phase", "request", "step", "size", "rank")
    columns = [
        [words[name](value).label for value in found[name]]
        if name in words
        else found[name].tolist()
        for name in names
    ]
    assert list(zip(*columns, strict=True)) == rows
    keys = [key for *_, key, tokens, _, _ in expected for _ in engine.objects(tokens)]
    assert found["block"].tolist() == keys
