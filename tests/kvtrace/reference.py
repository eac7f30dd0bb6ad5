"""A naive model of the tier hierarchy: plain Python, one rule of docs/workload.md after the other.

It shares no code with the compiled kernel and is written to be read, not to be fast.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

GPU, CPU, NVME, OBJECT = range(4)
TIERS = (GPU, CPU, NVME, OBJECT)


@dataclass
class Request:
    """A request with its blocks as (identity, tokens): those of its prompt, those it generates."""

    arrival_ns: int
    prompt: list[tuple[Any, int]]
    generated: list[tuple[Any, int]] = field(default_factory=list)
    input_tokens: int = 0
    output_tokens: int = 0
    session: int = 0
    think_ns: int = 0
    follower: Request | None = None
    row: int = 0
    number: int = -1


@dataclass
class Rules:
    """What is simulated; sizes per token, limits in bytes, times per token."""

    token_bytes: dict[int, int]
    high_bytes: dict[int, int]
    low_bytes: dict[int, int]
    write_through: bool = False
    promote: bool = False
    tail_first: bool = True
    prefix_rule: bool = True
    generation_ns: int = 0
    prefill_ps: int = 0
    reread_tokens: int = 0
    max_requests: int = 1 << 62
    end_ns: int = 1 << 62


class Reference:
    """Runs requests and keeps `rows`: (time, op, tier, phase, key, tokens, request, step)."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.held: list[OrderedDict[Any, int]] = [OrderedDict() for _ in TIERS]
        self.keys: dict[Any, int] = {}
        self.rows: list[tuple[Any, ...]] = []
        self.hits = [0, 0, 0, 0]
        self.blocks = 0
        self.now = 0
        self.request: Request | None = None
        self.step = 0
        self.count = 0

    def size(self, tier: int, tokens: int) -> int:
        return tokens * self.rules.token_bytes[tier]

    def used(self, tier: int) -> int:
        return sum(self.size(tier, tokens) for tokens in self.held[tier].values())

    def takers(self, tokens: int, first: int = 0) -> list[int]:
        """Tiers that a block of `tokens` fits into at all, fastest first."""
        limits = self.rules.high_bytes
        return [t for t in TIERS if t >= first and 0 < self.size(t, tokens) <= limits[t]]

    def emit(self, op: str, tier: int, phase: str, block: Any, tokens: int) -> None:
        key = self.keys.setdefault(block, len(self.keys))
        assert self.request is not None
        self.rows.append((self.now, op, tier, phase, key, tokens, self.request.number, self.step))

    def where(self, block: Any) -> int | None:
        return next((tier for tier in TIERS if block in self.held[tier]), None)

    def make_room(self, tier: int, need: int) -> None:
        rules = self.rules
        if self.used(tier) + need <= rules.high_bytes[tier]:
            return
        while self.held[tier] and self.used(tier) + need > rules.low_bytes[tier]:
            self.evict(tier, next(iter(self.held[tier])))

    def evict(self, tier: int, block: Any) -> None:
        tokens = self.held[tier][block]
        below = [] if self.rules.write_through else self.takers(tokens, tier + 1)
        if below and block in self.held[below[0]]:
            self.held[below[0]].move_to_end(block)
        elif below:
            self.make_room(below[0], self.size(below[0], tokens))
            self.emit("read", tier, "evict", block, tokens)
            self.emit("write", below[0], "evict", block, tokens)
            self.held[below[0]][block] = tokens
        self.emit("delete", tier, "evict", block, tokens)
        del self.held[tier][block]

    def write(self, tier: int, block: Any, tokens: int, phase: str) -> None:
        self.make_room(tier, self.size(tier, tokens))
        self.emit("write", tier, phase, block, tokens)
        self.held[tier][block] = tokens

    def store(self, block: Any, tokens: int, phase: str) -> None:
        takers = self.takers(tokens)
        for tier in takers if self.rules.write_through else takers[:1]:
            self.write(tier, block, tokens, phase)

    def hit(self, block: Any, tokens: int) -> int:
        tier = self.where(block)
        assert tier is not None
        self.emit("read", tier, "decode", block, tokens)
        self.held[tier].move_to_end(block)
        if self.rules.promote:
            takers = self.takers(tokens)
            if self.rules.write_through and CPU in takers and takers[0] < CPU < tier:
                self.write(CPU, block, tokens, "promote")
            if takers[0] < tier:
                self.write(takers[0], block, tokens, "promote")
        return tier

    def load(self, request: Request) -> tuple[int, int]:
        """Read the hits; return how many blocks and tokens they were."""
        prompt = request.prompt
        self.blocks += len(prompt)
        wanted = [block for block in prompt if self.where(block[0]) is not None]
        if self.rules.prefix_rule:
            run = 0
            while run < len(prompt) and self.where(prompt[run][0]) is not None:
                run += 1
            wanted = prompt[:run]
        hits = tokens = 0
        for block, size in reversed(wanted) if self.rules.tail_first else wanted:
            if self.where(block) is None:
                if self.rules.prefix_rule and not self.rules.tail_first:
                    break
                continue
            self.hits[self.hit(block, size)] += 1
            hits, tokens = hits + 1, tokens + size
        return hits, tokens

    def store_prompt(self, request: Request, hits: int) -> None:
        indexed = list(enumerate(request.prompt))
        for index, (block, tokens) in reversed(indexed) if self.rules.tail_first else indexed:
            tier = self.where(block)
            if tier is None:
                self.store(block, tokens, "prefill")
            elif self.rules.tail_first or index >= hits:
                self.held[tier].move_to_end(block)

    def serve(self, request: Request) -> Any:
        """Do what a request does; yield the time at which it goes on, each time."""
        rules = self.rules
        self.step = 1
        hits, hit_tokens = self.load(request)
        missed = max(0, request.input_tokens - hit_tokens)
        prefilled = self.now + missed * rules.prefill_ps // 1000
        if hits < len(request.prompt):
            yield prefilled
            self.step = 2
            self.store_prompt(request, hits)
        if rules.reread_tokens and request.prompt:
            rereads = -(-request.output_tokens // rules.reread_tokens)
            for index in range(rereads):
                tokens = request.output_tokens * index // rereads
                yield prefilled + tokens * rules.generation_ns
                self.step = 3 + index
                own = request.prompt[-1]
                if self.where(own[0]) is not None:
                    self.hit(*own)
        elif not rules.reread_tokens:
            done = sum(tokens for _, tokens in request.prompt) - request.input_tokens
            for index, (block, tokens) in enumerate(request.generated):
                done += tokens
                yield prefilled + done * rules.generation_ns
                self.step = 3 + index
                if self.where(block) is None:
                    self.store(block, tokens, "decode")
        yield prefilled + request.output_tokens * rules.generation_ns

    def run(self, requests: list[Request]) -> list[tuple[Any, ...]]:
        """Process everything in order of (time, request, step); return the rows."""
        heap: list[tuple[int, int, int, Request, Any]] = []
        for request in requests:
            heapq.heappush(heap, (request.arrival_ns, 1, request.row, request, None))
        while heap:
            self.now, arrives, _, request, going = heapq.heappop(heap)
            if arrives:
                if self.now >= self.rules.end_ns or self.count >= self.rules.max_requests:
                    continue
                request.number, self.count = self.count, self.count + 1
                going = self.serve(request)
                self.request = request
            self.go_on(heap, request, going)
        return self.rows

    def go_on(self, heap: list[Any], request: Request, going: Any) -> None:
        self.request = request
        for at in going:
            if at > self.now:
                heapq.heappush(heap, (at, 0, request.number, request, going))
                return
        follower = request.follower
        if follower is not None:
            arrival = self.now + follower.think_ns
            heapq.heappush(heap, (arrival, 1, follower.row, follower, None))
