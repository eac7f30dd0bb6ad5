"""Random requests and rules of a hierarchy, for the compiled one and the naive model."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Protocol, TypeVar

from kvtrace import plugins
from kvtrace.hierarchy.spec import HierarchySpec, StateSize, TierSpec
from kvtrace.trace.schema import Op, Phase, Tier
from tests.support.reference import Block, Reference, Request, Rules
from tests.support.requests import cut

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvtrace.hierarchy.hierarchy import CutRequests, Hierarchy

Option = TypeVar("Option")


class Choices(Protocol):
    """Who decides: hypothesis, or a generator of random numbers."""

    def one(self, options: Sequence[Option]) -> Option:
        """Return one of `options`."""
        ...

    def number(self, low: int, high: int) -> int:
        """Return a number from `low` to `high`, both included."""
        ...


def workload(choices: Choices, most: int = 25) -> list[Request]:
    """Return up to `most` requests, some sharing prefixes and documents, some following others."""
    arrival, requests = 0, []
    each = choices.one((False, True))
    for row in range(choices.number(1, most)):
        arrival += choices.number(0, 3)
        family, length = choices.number(0, 3), choices.number(0, 12)
        document = choices.one((0, 0, 8, 9))
        prompt = prefix(document, choices.number(1, 3), each) if document else []
        prompt += prefix(family, length, each)
        tail = choices.number(0, 3)
        generated = [
            Block((family << 8) + length + index, 4, at=4 * (index + 1) - tail)
            for index in range(choices.number(0, 2))
        ]
        requests.append(
            Request(
                arrival_ns=arrival,
                prompt=prompt,
                generated=generated,
                input_tokens=4 * len(prompt) + tail,
                output_tokens=4 * len(generated) + choices.number(0, 40),
                session=family,
                think_ns=choices.number(0, 5),
                row=row,
            )
        )
    for request, following in itertools.pairwise(requests):
        if choices.one((False, True)):
            request.follower = following
    return requests


def followers(requests: list[Request]) -> set[int]:
    """Return the rows of requests that follow another one."""
    return {r.follower.row for r in requests if r.follower}


def rules(choices: Choices, policies: Sequence[str] = ()) -> Rules:
    """Return rules under which tiers come out absent, tiny, ample or unlimited.

    `policies`: of which a tier has one; none: any that there is.
    """
    policies = policies or plugins.names(plugins.POLICY)
    token_bytes, high, low = {}, {}, {}
    for tier in range(4):
        token_bytes[tier] = choices.one((1, 2))
        capacity = choices.one((0, 3, 4, 9, 24, 60, 400, 1 << 40))
        high[tier] = capacity
        low[tier] = int(capacity * choices.one((1.0, 0.8, 0.3)))
    state = choices.one(((0, 0, 0), (0, 0, 0), (5, 0, 0), (3, 1, 10)))
    return Rules(
        token_bytes=token_bytes,
        high_bytes=high,
        low_bytes=low,
        write_through=choices.one((False, True)),
        promote=choices.one((False, True)),
        tail_first=choices.one((False, True)),
        policies={tier: choices.one(policies) for tier in range(4)},
        state_bytes=state[0],
        window_token_bytes=state[1],
        window_tokens=state[2],
        second_use=choices.one((False, True)),
        lookups=choices.one((False, True)),
        generation_ns=choices.one((0, 1)),
        prefill_ps=choices.one((0, 300)),
        prefill_slots=choices.one((1, 1, 3)),
        decode_slots=choices.one((0, 0, 1, 2)),
        reread_tokens=choices.one((0, 8)),
        max_requests=choices.one((5, 1 << 62)),
        end_ns=choices.one((10, 1 << 62)),
        restart_ns=choices.one((None, None, 0, 7, 30)),
        emptied=choices.one(((0, 1), (0, 1), (), (0, 1, 2, 3))),
    )


def rows_of(
    hierarchy: Hierarchy, batches: list[CutRequests], at_pause: Callable[[], None] | None = None
) -> list[tuple[object, ...]]:
    """Return the events as the reference writes them."""
    ops, phases = ([word.label for word in words] for words in (Op, Phase))
    rows: list[tuple[object, ...]] = []
    for part in hierarchy.events(batches, at_pause=at_pause):
        columns = [
            part.timestamp_ns.tolist(),
            [ops[op] for op in part.op.tolist()],
            part.tier.tolist(),
            [phases[phase] for phase in part.phase.tolist()],
            *(column.tolist() for column in (part.key, part.tokens, part.request, part.step)),
        ]
        rows += zip(*columns, strict=True)
    return rows


def prefix(family: int, length: int, each: bool) -> list[Block]:
    """Return the first blocks of a family; the last has a checkpoint; `each` counts by itself."""
    return [
        Block(
            (family << 8) + index,
            4,
            run=each or index == 0,
            checkpoint=index == length - 1,
            at=4 * (index + 1),
            shared=family >= 8,
        )
        for index in range(length)
    ]


def spec_of(given_rules: Rules) -> HierarchySpec:
    """Return the specification with the reference's rules."""
    tiers = tuple(
        TierSpec(
            tier=Tier(tier),
            capacity_bytes=given_rules.high_bytes[tier],
            token_bytes=given_rules.token_bytes[tier],
            state=StateSize(
                given_rules.state_bytes, given_rules.window_token_bytes, given_rules.window_tokens
            ),
            eviction=given_rules.policies[tier],
            low_watermark_ratio=(given_rules.low_bytes[tier] + 0.5) / given_rules.high_bytes[tier]
            if given_rules.low_bytes[tier] < given_rules.high_bytes[tier]
            else 1.0,
        )
        for tier in range(4)
    )
    return HierarchySpec(
        tiers=tiers,
        write_through=given_rules.write_through,
        promote=given_rules.promote,
        tail_first=given_rules.tail_first,
        second_use=given_rules.second_use,
        hybrid=given_rules.hybrid,
        lookups=given_rules.lookups,
        generation_ns=given_rules.generation_ns,
        prefill_ps=given_rules.prefill_ps,
        prefill_slots=given_rules.prefill_slots,
        decode_slots=given_rules.decode_slots,
        reread_tokens=given_rules.reread_tokens,
        max_requests=given_rules.max_requests,
        end_ns=given_rules.end_ns,
    )


def compare(hierarchy: Hierarchy, given_rules: Rules, requests: list[Request]) -> int:
    """Check that a hierarchy with these rules does what the naive model does; return the rows."""
    followed = followers(requests)
    reference = Reference(given_rules)
    expected = reference.run([r for r in requests if r.row not in followed])
    restart_ns = given_rules.restart_ns
    if restart_ns is not None:
        hierarchy.pause_at(time_ns=restart_ns)
    emptied = {Tier(tier) for tier in given_rules.emptied}
    rows = rows_of(hierarchy, [cut(requests)], lambda: hierarchy.restart(restart_ns or 0, emptied))
    assert rows == expected
    stats = hierarchy.stats()
    assert [stats.hits[tier] for tier in Tier] == reference.hits
    assert stats.blocks == reference.blocks
    assert stats.ideal_hits == reference.ideal
    counted = ("blocks", "hits", "hit_tokens", "ideal_hits")
    shared = [getattr(stats, f"shared_{name}") for name in counted]
    assert shared == list(reference.shared.values())
    return len(expected)
