"""Requests as a trace shows them: what each asked for and stored, read from the rows.

A request's rows of step 1 are the blocks that it found, those of step 2 the blocks that it had to
compute, those behind the blocks that it generated. What a trace can't show: blocks that were there
behind the first hole of a prompt, prompts of which no tier takes a block, tokens that fill no
block, and where in a prompt documents stand. A trace of tiers that lose nothing shows every prompt
whole.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.errors import TraceError
from kvtrace.hierarchy.hierarchy import CutRequests
from kvtrace.hierarchy.native import RUN
from kvtrace.hierarchy.served import GENERATED, begins, check_requests, merged, served
from kvtrace.hierarchy.spec import HierarchySpec, endless
from kvtrace.models import load_model
from kvtrace.native.hashmap import Interner
from kvtrace.recording.config import RecordConfig, resolve
from kvtrace.recording.parts import policies, tier_spec
from kvtrace.requests.request import Ragged, RequestBatch, ranges
from kvtrace.trace.schema import Tier
from kvtrace.units import UNLIMITED
from kvtrace.whatif.counting import Counter
from kvtrace.whatif.workload import Options, Prompts, Run, plain_run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from kvtrace.models import Model
    from kvtrace.trace.header import Header, SourceInfo
    from kvtrace.trace.reader import Columns, Trace

_CONFIGURED = ("tiers", "eviction", "admission", "write_policy", "promotion", "touch_order")
"""Keys of a recording's configuration that a what-if takes over from the trace."""


class Traced:
    """The requests of a trace. Its tiers begin empty; a prompt is computed in no time."""

    def __init__(self, trace: Trace) -> None:
        header = trace.header
        check_requests(trace)
        self._header = header
        self._config = _config(header, {})
        reverse = self._config.touch_order == "tail-first"
        accesses = _joined(served(trace))
        if not len(accesses["block"]):
            raise TraceError(
                "no request can be told from its rows", where=trace.path,
                accepted="rows of steps 1 and 2 that serve requests",
            )  # fmt: skip
        self._sizes = np.unique(accesses["bytes"])
        self._objects = int(accesses["objects"].max())
        each = header.layout is not None and header.layout.get("block_tokens") is None
        self._requests = [_requests(accesses, reverse=reverse, uniform=self._uniform, each=each)]

    @property
    def _uniform(self) -> bool:
        return len(self._sizes) == 1

    def run(self, options: Options, *, every: bool = False) -> Run:
        """Return the run under `options`, on top of what the trace was recorded with."""
        spec = self._spec(_config(self._header, options))
        return self._run(spec, tallied_tokens=1 if self._uniform and not every else 0)

    def reference_run(self) -> Run:
        """Return the run on one unlimited tier with look-ups."""
        return self._run(endless(self._spec(self._config)), tallied_tokens=0)

    def source(self) -> SourceInfo | None:
        """Return where the trace's requests came from."""
        return self._header.source

    def _run(self, spec: HierarchySpec, *, tallied_tokens: int) -> Run:
        # Blocks of one size count as 1 token each, others as a token a byte.
        counter = Counter(_parts(int(self._sizes[0]), self._objects) if self._uniform else (1,))
        factors = {tier: self._factor(tier) for tier in Tier}
        return plain_run(
            spec, self._requests, counter, factors, 1 if self._uniform else None,
            tallied_tokens=tallied_tokens, prompts=self._prompts(),
        )  # fmt: skip

    def _prompts(self) -> Prompts:
        layout = self._header.layout or {}
        emitted = float(layout.get("emitted_bytes_per_token") or 0)
        whole = float(self._sizes[0]) if self._uniform else 1.0
        tokens = layout.get("block_tokens") if self._uniform else None
        unit = float(tokens or (whole / emitted if emitted else 0))
        tail_first = self._config.touch_order == "tail-first"
        return Prompts(self._model, self._header.tensor_parallel or 1, unit, tail_first)

    def _model(self) -> Model:
        """Return the model that the header names. Raises UsageError for an unknown one."""
        return load_model(str((self._header.model or {}).get("name") or "none"))

    def _factor(self, tier: Tier) -> float:
        factors = {info.name: info.occupancy_factor for info in self._header.tiers}
        lower = [factors[t.label] for t in (Tier.CPU, Tier.NVME, Tier.OBJECT) if t.label in factors]
        return factors.get(tier.label, lower[0] if lower else 1.0)

    def _spec(self, config: RecordConfig) -> HierarchySpec:
        unit = float(self._sizes[0]) if self._uniform else 1.0
        gpus = self._header.num_gpus or 1
        tiers = [
            tier_spec(config, tier, gpus, token_bytes=max(1, round(unit * self._factor(tier))))
            for tier in Tier
        ]
        return HierarchySpec(
            tiers=tuple(tiers),
            **policies(config),
            generation_ns=1,  # times of generated blocks are in ns already
        )


def _config(header: Header, options: Options) -> RecordConfig:
    """Return what the trace was recorded with, `options` on top; else the defaults."""
    known = {name: deepcopy(header.config[name]) for name in _CONFIGURED if name in header.config}
    if header.tiers:  # of a merged or scaled trace they are larger than its configuration says
        capacities = {info.name: info.capacity_bytes for info in header.tiers}
        for tier in Tier:
            limit = capacities.get(tier.label, 0)
            each = (header.num_gpus or 1) if tier is Tier.GPU else 1
            known[f"tiers.{tier.label}.capacity"] = UNLIMITED if limit is None else limit // each
    return resolve(None, known | options).config


def _parts(block_bytes: int, objects: int) -> tuple[int, ...]:
    """Return the sizes of a block's objects, as even as they can be."""
    return tuple(block_bytes * (i + 1) // objects - block_bytes * i // objects
                 for i in range(objects))  # fmt: skip


def _joined(parts: Iterator[Columns]) -> Columns:
    """Return all accesses; a block that is written on several tiers is one."""
    listed = list(parts)
    if not listed:
        return {"block": np.zeros(0, np.uint64)}
    rows = {name: np.concatenate([part[name] for part in listed]) for name in listed[0]}
    if not len(rows["block"]):
        return rows
    rows = merged(rows)
    firsts = begins(rows, ("request", "kind", "block"))
    return {name: values[firsts] for name, values in rows.items()}


def _requests(accesses: Columns, *, reverse: bool, uniform: bool, each: bool) -> CutRequests:
    """Return the requests in order of their first rows, their prompts from head to tail.

    `reverse`: the rows are from tail to head. `each`: a block is a hit by itself, not only behind
    those before it.
    """
    request = Interner().intern(accesses["request"].view(np.int64))
    place = np.arange(len(request))
    prompt = accesses["kind"] < GENERATED
    order = np.lexsort(
        (np.where(prompt & reverse, -place, place), accesses["kind"], request)
    )  # fmt: skip
    count = int(request.max()) + 1
    arrival = np.zeros(count, np.int64)
    arrival[request[::-1]] = accesses["time"][::-1]  # the first one stays
    request, prompt = request[order], prompt[order]
    counts = np.bincount(request, minlength=count)
    prompts = np.bincount(request[prompt], minlength=count)
    tokens = np.ones(len(order), np.int64) if uniform else accesses["bytes"][order]
    later_ns = accesses["time"][order] - arrival[request]
    index = ranges(counts)
    asked = np.bincount(request[prompt], tokens[prompt], minlength=count).astype(np.int64)
    last_ns = np.zeros(count, np.int64)
    np.maximum.at(last_ns, request[~prompt], later_ns[~prompt])
    idents = 1 + Interner().intern(accesses["block"].view(np.int64))[order]
    flags = np.full(len(order), RUN) if each else RUN * (index == 0)
    return CutRequests(
        batch=_batch(arrival, asked, last_ns),
        blocks=Ragged.from_counts(counts, idents),
        tokens=tokens,
        at=np.where(prompt, index + 1, later_ns),
        flags=flags,
        prompt_blocks=prompts,
    )


def _batch(
    arrival_ns: NDArray[np.int64], asked: NDArray[np.int64], last_ns: NDArray[np.int64]
) -> RequestBatch:
    zeros: NDArray[Any] = np.zeros(len(arrival_ns), np.int64)
    return RequestBatch(
        arrival_ns=arrival_ns,
        think_ns=zeros,
        follow=zeros,
        chain=zeros,
        session=zeros,
        turn=zeros,
        last_turn=zeros.astype(np.bool_),
        input_tokens=asked,
        output_tokens=last_ns,
        qos=zeros,
        block_ids=None,
        turn_tokens=None,
    )
