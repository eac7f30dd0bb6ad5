"""A naive model of the tier hierarchy: plain Python, one rule of docs/workload.md after the other.

It shares no code with the compiled kernel and is written to be read, not to be fast.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.support.reference_policies import POLICIES

GPU, CPU, NVME, OBJECT = range(4)
TIERS = (GPU, CPU, NVME, OBJECT)


@dataclass
class Block:
    """A block as a request asks for it: `run` begins a prefix of its own; `at`: see CutRequests.

    `shared`: a block of several sessions, counted once more by itself.
    """

    ident: Any
    tokens: int
    run: bool = False
    checkpoint: bool = False
    at: int = 0
    shared: bool = False


@dataclass
class Request:
    """A request with its blocks: those of its prompt, those it generates."""

    arrival_ns: int
    prompt: list[Block]
    generated: list[Block] = field(default_factory=list)
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
    policies: dict[int, str] = field(default_factory=lambda: dict.fromkeys(TIERS, "lru"))
    state_bytes: int = 0
    window_token_bytes: int = 0
    window_tokens: int = 0
    second_use: bool = False
    lookups: bool = False
    write_through: bool = False
    promote: bool = False
    tail_first: bool = True
    generation_ns: int = 0
    prefill_ps: int = 0
    prefill_slots: int = 1
    decode_slots: int = 0
    reread_tokens: int = 0
    max_requests: int = 1 << 62
    end_ns: int = 1 << 62
    restart_ns: int | None = None
    emptied: tuple[int, ...] = ()

    @property
    def hybrid(self) -> bool:
        return bool(self.state_bytes or self.window_token_bytes)


class Reference:
    """Runs requests and keeps `rows`: (time, op, tier, phase, key, tokens, request, step)."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.tokens: dict[Any, int] = {}
        self.prefilling: list[int] = []
        self.generating: list[int] = []
        self.held = [self.empty(tier) for tier in TIERS]
        self.keys: dict[Any, int] = {}
        self.seen: set[Any] = set()
        self.again: set[Any] = set()
        self.stored: set[Any] = set()
        self.rows: list[tuple[Any, ...]] = []
        self.hits = [0, 0, 0, 0]
        self.blocks = 0
        self.ideal = 0
        self.shared = {"blocks": 0, "hits": 0, "tokens": 0, "ideal": 0}
        self.now = 0
        self.request: Request | None = None
        self.step = 0
        self.count = 0

    def empty(self, tier: int) -> Any:
        """A policy that has seen nothing."""
        return POLICIES[self.rules.policies[tier]](
            self.rules.high_bytes[tier], lambda block: self.size(tier, self.tokens[block])
        )

    def size(self, tier: int, tokens: int) -> int:
        rules = self.rules
        if tokens < 0:
            window = min(-tokens, rules.window_tokens) * rules.window_token_bytes
            return rules.state_bytes + window
        return tokens * rules.token_bytes[tier]

    def used(self, tier: int) -> int:
        lengths = Counter(map(self.tokens.__getitem__, self.held[tier].blocks()))
        return sum(self.size(tier, tokens) * count for tokens, count in lengths.items())

    def takers(self, block: Any, first: int = 0) -> list[int]:
        """Tiers that a block fits into at all, fastest first."""
        limits, tokens = self.rules.high_bytes, self.tokens[block]
        return [t for t in TIERS if t >= first and 0 < self.size(t, tokens) <= limits[t]]

    def admitting(self, block: Any, first: int = 0) -> list[int]:
        """Those of the takers that admit it."""
        takers = self.takers(block, first)
        if self.rules.second_use and block not in self.again:
            takers = [tier for tier in takers if tier < NVME]
        return takers

    def emit(self, op: str, tier: int, phase: str, block: Any) -> None:
        key = self.keys.setdefault(block, len(self.keys))
        assert self.request is not None
        row = (self.now, op, tier, phase, key, self.tokens[block], self.request.number, self.step)
        self.rows.append(row)

    def where(self, block: Any) -> int | None:
        return next((tier for tier in TIERS if block in self.held[tier].blocks()), None)

    def make_room(self, tier: int, need: int) -> None:
        rules = self.rules
        if self.used(tier) + need <= rules.high_bytes[tier]:
            return
        while self.held[tier].blocks() and self.used(tier) + need > rules.low_bytes[tier]:
            self.evict(tier, self.held[tier].victim())

    def evict(self, tier: int, block: Any) -> None:
        below = [] if self.rules.write_through else self.admitting(block, tier + 1)[:1]
        if below and block in self.held[below[0]].blocks():
            self.held[below[0]].touch(block)
        elif below:
            self.held[below[0]].expect(block)
            self.make_room(below[0], self.size(below[0], self.tokens[block]))
            self.emit("read", tier, "evict", block)
            self.emit("write", below[0], "evict", block)
            self.held[below[0]].insert(block)
        self.emit("delete", tier, "evict", block)
        self.held[tier].evict(block)

    def write(self, tier: int, block: Any, phase: str) -> None:
        self.held[tier].expect(block)
        self.make_room(tier, self.size(tier, self.tokens[block]))
        self.emit("write", tier, phase, block)
        self.held[tier].insert(block)

    def store(self, block: Any, tokens: int, phase: str) -> None:
        self.tokens[block] = tokens
        if not self.takers(block):
            return
        self.seen.add(block)
        self.stored.add(block)
        takers = self.admitting(block)
        for tier in takers if self.rules.write_through else takers[:1]:
            self.write(tier, block, phase)

    def hit(self, block: Any) -> int:
        rules, tier = self.rules, self.where(block)
        assert tier is not None
        self.emit("read", tier, "decode", block)
        self.held[tier].touch(block)
        if rules.write_through and rules.second_use and block in self.again:
            for lower in self.takers(block, NVME):
                if block not in self.held[lower].blocks():
                    self.write(lower, block, "decode")
        if rules.promote:
            takers = self.takers(block)
            if rules.write_through and CPU in takers and takers[0] < CPU < tier:
                self.write(CPU, block, "promote")
            if takers[0] < tier and block not in self.held[takers[0]].blocks():
                self.write(takers[0], block, "promote")
        return tier

    def runs(self, prompt: list[Block]) -> list[list[Block]]:
        found: list[list[Block]] = []
        for block in prompt:
            if block.run or not found:
                found.append([])
            found[-1].append(block)
        return found

    def usable(self, run: list[Block]) -> list[Block]:
        """The leading resident blocks; of a hybrid model, up to the deepest with a checkpoint."""
        length = 0
        while length < len(run) and self.where(run[length].ident) is not None:
            length += 1
        while self.rules.hybrid and length and self.where(("state", run[length - 1].ident)) is None:
            length -= 1
        return run[:length]

    def look_up(self, prompt: list[Block]) -> list[list[Block]]:
        """Return the hits of each run; what was stored before has now been asked for again."""
        found = []
        for run in self.runs(prompt):
            known = [block.ident in self.seen for block in run]
            ideal = [*known, False].index(False)
            self.ideal += ideal
            self.shared["blocks"] += sum(block.shared for block in run)
            self.shared["ideal"] += sum(block.shared for block in run[:ideal])
            found.append(self.usable(run))
            asked = {block.ident for block in run} | {("state", block.ident) for block in run}
            self.again |= asked & self.stored
        return found

    def load(self, request: Request) -> tuple[list[Block], int]:
        """Read the hits; return them and their tokens."""
        self.blocks += len(request.prompt)
        found = self.look_up(request.prompt)
        hits: list[Block] = []
        for run in reversed(found) if self.rules.tail_first else found:
            hits += self.load_run(run)
        return hits, sum(block.tokens for block in hits)

    def load_run(self, run: list[Block]) -> list[Block]:
        tail_first, hits = self.rules.tail_first, []
        for block in reversed(run) if tail_first else run:
            last = self.rules.hybrid and block is run[-1]
            if self.where(block.ident) is None:
                if not tail_first:
                    break
                continue
            if last and tail_first:
                self.read_state(block)
            if self.where(block.ident) is None:
                continue
            self.hits[self.hit(block.ident)] += 1
            self.shared["hits"] += block.shared
            self.shared["tokens"] += block.shared * block.tokens
            if last and not tail_first:
                self.read_state(block)
            hits.append(block)
        return hits

    def read_state(self, block: Block) -> None:
        if self.where(("state", block.ident)) is not None:
            self.hit(("state", block.ident))

    def store_state(self, block: Block, tokens: int, phase: str) -> None:
        state = ("state", block.ident)
        if self.rules.hybrid and block.checkpoint and self.where(state) is None:
            self.store(state, -tokens, phase)

    def store_prompt(self, request: Request, hits: list[Block]) -> None:
        tail_first = self.rules.tail_first
        for block in reversed(request.prompt) if tail_first else request.prompt:
            computed = not any(block is hit for hit in hits)
            if computed and tail_first:
                self.store_state(block, block.at, "prefill")
            tier = self.where(block.ident)
            if tier is None:
                self.store(block.ident, block.tokens, "prefill")
            elif tail_first or computed:
                self.held[tier].touch(block.ident)
            if computed and not tail_first:
                self.store_state(block, block.at, "prefill")

    def ask(self, request: Request) -> None:
        for block in request.prompt:
            self.tokens.setdefault(block.ident, block.tokens)
            takers = self.takers(block.ident)
            if takers:
                tier = self.where(block.ident)
                self.emit("lookup", takers[-1] if tier is None else tier, "decode", block.ident)

    @staticmethod
    def take_turn(busy: list[int], slots: int, ready: int, takes: int) -> int:
        """Begin work when it is ready and one of the slots is free; return when that is.

        `busy`: when each piece of work that was given a slot ends.
        """
        begin = ready if len(busy) < slots else max(ready, heapq.heappop(busy))
        heapq.heappush(busy, begin + takes)
        return begin

    def serve(self, request: Request) -> Any:
        """Do what a request does; yield the time at which it goes on, each time."""
        rules = self.rules
        if rules.lookups:
            self.step = 0
            self.ask(request)
        self.step = 1
        hits, hit_tokens = self.load(request)
        missed = max(0, request.input_tokens - hit_tokens)
        prefilled = self.now
        takes = missed * rules.prefill_ps // 1000 * rules.prefill_slots
        if takes:
            prefilled = (
                self.take_turn(self.prefilling, rules.prefill_slots, self.now, takes) + takes
            )
        decoding = prefilled
        generates = request.output_tokens * rules.generation_ns
        if rules.decode_slots and generates:
            decoding = self.take_turn(self.generating, rules.decode_slots, prefilled, generates)
        if len(hits) < len(request.prompt):
            yield prefilled
            self.step = 2
            self.store_prompt(request, hits)
        steps = 0
        if rules.reread_tokens and request.prompt:
            steps = rereads = -(-request.output_tokens // rules.reread_tokens)
            for index in range(rereads):
                tokens = request.output_tokens * index // rereads
                yield decoding + tokens * rules.generation_ns
                self.step = 3 + index
                own = request.prompt[-1].ident
                if self.where(own) is not None:
                    self.hit(own)
        elif not rules.reread_tokens:
            steps = len(request.generated)
            for index, block in enumerate(request.generated):
                yield decoding + block.at * rules.generation_ns
                self.step = 3 + index
                if self.where(block.ident) is None:
                    self.store(block.ident, block.tokens, "decode")
                self.store_state(block, request.input_tokens + block.at, "decode")
        yield decoding + request.output_tokens * rules.generation_ns
        self.step = 3 + steps

    def run(self, requests: list[Request]) -> list[tuple[Any, ...]]:
        """Process everything in order of (time, request, step); return the rows."""
        heap: list[tuple[int, int, int, Request, Any]] = []
        for request in requests:
            heapq.heappush(heap, (request.arrival_ns, 1, request.row, request, None))
        restart_ns = self.rules.restart_ns
        while heap:
            self.now, arrives, *_ = heap[0]
            over = self.now >= self.rules.end_ns or self.count >= self.rules.max_requests
            if arrives and over:
                heapq.heappop(heap)
                continue
            if restart_ns is not None and self.now >= restart_ns:
                self.restart(heap, restart_ns)
                restart_ns = None
                continue
            _, arrives, _, request, going = heapq.heappop(heap)
            if arrives:
                request.number, self.count = self.count, self.count + 1
                going = self.serve(request)
                self.request = request
            self.go_on(heap, request, going)
        return self.rows

    def restart(self, heap: list[Any], now: int) -> None:
        """Lose what lies in memory; whoever waits for an answer asks again."""
        self.now = now
        for tier in self.rules.emptied:
            for block in sorted(self.held[tier].blocks(), key=self.keys.__getitem__):
                self.emit("delete", tier, "evict", block)
            self.held[tier] = self.empty(tier)
        self.again = set()
        self.stored = {block for tier in TIERS for block in self.held[tier].blocks()}
        self.prefilling, self.generating = [], []
        heap[:] = [entry if entry[1] else (now, 1, entry[3].row, entry[3], None) for entry in heap]
        heapq.heapify(heap)

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
