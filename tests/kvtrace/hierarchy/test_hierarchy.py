"""The compiled hierarchy against a naive model and an independent simulator's figures."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvtrace import plugins
from kvtrace.hierarchy.hierarchy import CutRequests, Hierarchy
from kvtrace.hierarchy.spec import HierarchySpec, TierSpec
from kvtrace.trace.schema import Op, Tier
from kvtrace.units import UNLIMITED
from tests.fuzz.steps import run
from tests.support import places
from tests.support.examples import examples
from tests.support.hierarchies import (
    Option,
    compare,
    prefix,
    rows_of,
    rules,
    spec_of,
    workload,
)
from tests.support.reference import Block, Reference, Request, Rules
from tests.support.requests import cut

if TYPE_CHECKING:
    from collections.abc import Sequence

MOONCAKE = places.SAMPLES / "mooncake/synthetic_trace.jsonl"


class Drawn:
    """Choices that hypothesis makes."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def one(self, options: Sequence[Option]) -> Option:
        return self._draw(st.sampled_from(options))

    def number(self, low: int, high: int) -> int:
        return self._draw(st.integers(low, high))


workloads = st.composite(lambda draw: workload(Drawn(draw)))
some_rules = st.composite(lambda draw: rules(Drawn(draw)))


@pytest.mark.slow
@settings(max_examples=examples(1000), deadline=None)
@given(workloads(), some_rules())
def test_equals_the_naive_model_row_for_row(requests: list[Request], given_rules: Rules) -> None:
    """The compiled hierarchy emits what the naive model emits, and counts the same hits."""
    compare(Hierarchy(spec_of(given_rules)), given_rules, requests)


def test_many_steps_equal_the_naive_model() -> None:
    """Longer runs than hypothesis draws: the fuzz that `make sanitize` runs for longer."""
    assert run(seed=1, steps=10_000, policies=plugins.names(plugins.POLICY)) >= 10_000


@settings(max_examples=examples(60), deadline=None)
@given(workloads(), some_rules(), st.integers(1, 7), st.integers(1, 9))
def test_events_dont_depend_on_batches(
    requests: list[Request], given_rules: Rules, events_per_call: int, rows_per_batch: int
) -> None:
    """However requests and events are cut into batches, the events are the same."""
    for request in requests:
        request.follower = None
    whole = rows_of(Hierarchy(spec_of(given_rules)), [cut(requests)])
    pieces = [
        cut(requests[first : first + rows_per_batch])
        for first in range(0, len(requests), rows_per_batch)
    ]
    hierarchy = Hierarchy(spec_of(given_rules), events_per_call=events_per_call)
    assert rows_of(hierarchy, pieces) == whole


def test_a_request_that_does_many_steps_at_once_has_room_for_their_events() -> None:
    """Instant decoding that reads a prompt again and again: all events, whatever the room.

    Expected: a write per block, then 5,000 reads. Buggy (November 2026): room was kept for one
    reading of the prompt only, and the rest was written beyond it.
    """
    request = Request(
        arrival_ns=0,
        prompt=prefix(0, 12, each=True),
        generated=[],
        input_tokens=48,
        output_tokens=40_000,
        session=0,
        think_ns=0,
        row=0,
    )
    capacity = {tier: 1 << 40 if tier == 0 else 0 for tier in range(4)}
    given_rules = Rules(
        token_bytes=dict.fromkeys(range(4), 1),
        high_bytes=capacity,
        low_bytes=dict(capacity),
        write_through=False,
        promote=False,
        tail_first=True,
        generation_ns=0,
        prefill_ps=0,
        reread_tokens=8,
        max_requests=1 << 62,
        end_ns=1 << 62,
    )
    found = rows_of(Hierarchy(spec_of(given_rules), events_per_call=1), [cut([request])])
    assert found == Reference(given_rules).run([request])
    assert [row[1] for row in found].count("read") == 5_000


ORACLE = [
    # G, C, policy, hits gpu / cpu / nvme, nvme writes, nvme reads (docs/workload.md)
    (400, 0, "write-through", (0.032, 0, 0.608), 43_924, 74_041),
    (400, 0, "waterfall", (0.032, 0, 0.608), 43_904, 74_041),
    (400, 1_600, "write-through", (0.032, 0.090, 0.518), 43_924, 63_079),
    (400, 1_600, "waterfall", (0.032, 0.107, 0.501), 43_799, 61_012),
    (400, 6_400, "write-through", (0.032, 0.291, 0.316), 43_924, 38_524),
    (400, 6_400, "waterfall", (0.032, 0.303, 0.304), 43_035, 37_110),
    (400, 25_600, "write-through", (0.032, 0.576, 0.032), 43_924, 3_877),
    (400, 25_600, "waterfall", (0.032, 0.576, 0.031), 22_078, 3_818),
]


@cache
def mooncake() -> CutRequests:
    """The sample's requests, their ids as they stand."""
    requests = []
    for row, line in enumerate(MOONCAKE.read_text().splitlines()):
        fields = json.loads(line)
        requests.append(
            Request(fields["timestamp"], [Block(block, 1) for block in fields["hash_ids"]], row=row)
        )
    return cut(requests)


@pytest.mark.skipif(not MOONCAKE.exists(), reason="the Mooncake sample isn't here")
@pytest.mark.parametrize(("gpu", "cpu", "policy", "hits", "writes", "reads"), ORACLE)
def test_oracle(
    gpu: int, cpu: int, policy: str, hits: tuple[float, ...], writes: int, reads: int
) -> None:
    """Fed with Mooncake's ids as they stand, the hierarchy counts as an independent simulator."""
    capacity = {Tier.GPU: gpu, Tier.CPU: cpu, Tier.NVME: UNLIMITED}
    spec = HierarchySpec(
        tiers=tuple(TierSpec(tier, size, 1, 0) for tier, size in capacity.items()),
        write_through=policy == "write-through",
        promote=True,
        tail_first=False,
    )
    hierarchy = Hierarchy(spec)
    counts = {Op.READ: 0, Op.WRITE: 0}
    for part in hierarchy.events([mooncake()]):
        on_nvme = part.tier == Tier.NVME
        for op in counts:
            counts[op] += int((on_nvme & (part.op == op)).sum())
    stats = hierarchy.stats()
    assert (stats.requests, stats.blocks, stats.ideal_hits) == (3_993, 121_877, 77_953)
    found = tuple(round(stats.hits[tier] / stats.blocks, 3) for tier in capacity)
    assert (found, counts[Op.WRITE], counts[Op.READ]) == (hits, writes, reads)
