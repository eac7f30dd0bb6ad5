"""Loads of each request of a trace from a tier, and how long GPUs take to compute them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.breakeven.settings import Assumption
from kvtrace.errors import TraceError, UsageError
from kvtrace.hierarchy.served import COMPUTED, HIT, begins, check_requests, merged, served
from kvtrace.native.hashmap import Interner
from kvtrace.trace.schema import Tier

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.breakeven.recompute import Values
    from kvtrace.breakeven.settings import Basis
    from kvtrace.trace.header import Header
    from kvtrace.trace.reader import Columns, Trace


@dataclass(frozen=True, slots=True)
class Accesses:
    """Blocks of prompts, by request and from head to tail: hits, then those that were computed.

    `request`: its place in `requests`, the trace's own numbers. `begin`: tokens before the block.
    """

    requests: NDArray[np.uint64]
    request: NDArray[np.int64]
    hit: NDArray[np.bool_]
    tier: NDArray[np.uint8]
    moved_bytes: NDArray[np.int64]
    tokens: Values
    begin: Values

    def tiers(self) -> list[Tier]:
        """Return the tiers that hits are read from, fastest first."""
        return [tier for tier in Tier if (self.hit & (self.tier == tier)).any()]


@dataclass(frozen=True, slots=True)
class Loads:
    """Requests that load from a tier. Seconds are what the GPUs take to compute those tokens.

    `missed_s`: for what no tier had. Blocks of the loads, request by request from head to tail:
    `counts` of each, their bytes and seconds.
    """

    request: NDArray[np.uint64]
    tokens: Values
    moved_bytes: NDArray[np.int64]
    recompute_s: Values
    missed_s: Values
    counts: NDArray[np.int64]
    block_bytes: NDArray[np.int64]
    block_s: Values

    def __len__(self) -> int:
        return len(self.request)

    def kept(self, which: NDArray[np.bool_]) -> Loads:
        """Return those that `which` says."""
        blocks = np.repeat(which, self.counts)
        return Loads(
            self.request[which], self.tokens[which], self.moved_bytes[which],
            self.recompute_s[which], self.missed_s[which], self.counts[which],
            self.block_bytes[blocks], self.block_s[blocks],
        )  # fmt: skip


def read_accesses(trace: Trace, token_bytes: float) -> Accesses:
    """Return the blocks of all prompts.

    `token_bytes`: a token's, of a trace whose layout states no block. Raises TraceError for a trace
    whose requests can't be told from its rows.
    """
    check_requests(trace, hint="its hits can't be told from it; give the curve: --model")
    rows = _joined(trace)
    kinds = rows["kind"]
    prompt = kinds <= COMPUTED
    rows = {name: values[prompt] for name, values in rows.items()}
    index = Interner().intern(rows["request"].view(np.int64))
    once = _once(rows, index)
    rows, index = {name: values[once] for name, values in rows.items()}, index[once]
    place = np.arange(len(index))
    if _tail_first(trace.header):
        place = -place
    order = np.lexsort((place, rows["kind"], index))
    rows = {name: values[order] for name, values in rows.items()}
    index = index[order]
    tokens = _tokens(trace.header, rows["bytes"], token_bytes)
    return Accesses(
        requests=rows["request"][firsts(index)],
        request=index,
        hit=rows["kind"] == HIT,
        tier=rows["tier"],
        moved_bytes=rows["bytes"],
        tokens=tokens,
        begin=before(tokens, index),
    )


def _joined(trace: Trace) -> Columns:
    """Return all accesses; a block that is written on several tiers is one."""
    parts = list(served(trace))
    if not parts or not sum(len(part["block"]) for part in parts):
        raise TraceError(
            "no request can be told from its rows", where=trace.path,
            accepted="rows of steps 1 and 2 that serve requests",
        )  # fmt: skip
    rows = merged({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    first = begins(rows, ("request", "kind", "block"))
    return {name: values[first] for name, values in rows.items()}


def _once(rows: Columns, index: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which rows are a request's first of their block.

    A hit that is evicted before its prompt is stored is written again, and wasn't computed.
    """
    order = np.lexsort((np.arange(len(index)), rows["kind"], rows["block"], index))
    block, request = rows["block"][order], index[order]
    again = np.zeros(len(index), np.bool_)
    again[order[1:]] = (block[1:] == block[:-1]) & (request[1:] == request[:-1])
    return ~again


def _tail_first(header: Header) -> bool:
    """Return whether a prompt's rows go from its tail to its head, as simulated ones do by default.

    Engines look blocks up, and load them, from the head.
    """
    default = "tail-first" if header.capture is None else "head-first"
    return bool(header.config.get("touch_order", default) == "tail-first")


def _tokens(header: Header, moved_bytes: NDArray[np.int64], token_bytes: float) -> Values:
    layout = header.layout or {}
    block_tokens: Any = layout.get("block_tokens")
    if block_tokens:
        return np.full(len(moved_bytes), float(block_tokens))
    return moved_bytes / (float(layout.get("emitted_bytes_per_token") or 0) or token_bytes)


def token_assumption(header: Header, token_bytes: float) -> Assumption:
    """Return what the tokens of a trace's blocks rest on."""
    layout, name = header.layout or {}, "tokens of a block"
    block_tokens = layout.get("block_tokens")
    if block_tokens:
        return Assumption(name, f"{block_tokens:,}", "the trace's layout")
    emitted = float(layout.get("emitted_bytes_per_token") or 0)
    origin = "the trace's layout" if emitted else "the model, for the trace states no layout"
    return Assumption(name, f"its bytes / {emitted or token_bytes:,.0f}", origin)


def firsts(index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each run of equal values begins."""
    anew = np.ones(len(index), np.bool_)
    anew[1:] = index[1:] != index[:-1]
    return np.flatnonzero(anew)


def before(values: Values, index: NDArray[np.int64]) -> Values:
    """Return the sum of what stands before each value in its own request."""
    total = np.cumsum(values) - values
    starts = firsts(index)
    counts = np.diff(np.append(starts, len(index)))
    return total - np.repeat(total[starts], counts)


def pick_tier(accesses: Accesses, name: str | None, where: object) -> Tier:
    """Return the tier called `name`, or the slowest that hits are read from.

    Raises UsageError for an unknown name, TraceError for a tier without hits.
    """
    known = {tier.label: tier for tier in Tier if tier != Tier.GPU}
    if name is not None and name not in known:
        raise UsageError("unknown tier", where="--tier", got=repr(name), accepted=", ".join(known))
    present = [tier for tier in accesses.tiers() if tier != Tier.GPU]
    if not present:
        raise TraceError(
            "no request loads anything", where=where, accepted="hits on a tier below gpu"
        )
    if name is None:
        return present[-1]
    if known[name] not in present:
        raise TraceError(
            f"no request loads from tier {name}", where=where,
            accepted=", ".join(tier.label for tier in present),
        )  # fmt: skip
    return known[name]


def loads_of(accesses: Accesses, tier: Tier, basis: Basis) -> Loads:
    """Return the requests that load from `tier`, in order of the trace.

    A block's seconds are what its tokens add behind those before it.
    """
    own = accesses.hit & (accesses.tier == tier)
    count = len(accesses.requests)
    counts = np.bincount(accesses.request[own], minlength=count)
    end = accesses.begin + accesses.tokens
    all_s = basis.seconds(end) - basis.seconds(accesses.begin)
    block_s, block_bytes = all_s[own], accesses.moved_bytes[own]
    index = accesses.request[own]

    def summed(values: Any, at: NDArray[np.int64]) -> Values:
        return np.bincount(at, values, minlength=count).astype(np.float64)

    missed = ~accesses.hit
    which = counts > 0
    return Loads(
        request=accesses.requests[which],
        tokens=summed(accesses.tokens[own], index)[which],
        moved_bytes=summed(block_bytes, index)[which].astype(np.int64),
        recompute_s=summed(block_s, index)[which],
        missed_s=summed(all_s[missed], accesses.request[missed])[which],
        counts=counts[which],
        block_bytes=block_bytes,
        block_s=block_s,
    )
