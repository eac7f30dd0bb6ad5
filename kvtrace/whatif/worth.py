"""Loads of each combination against recomputing them: what they need, and what they would win."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace import arguments
from kvtrace.breakeven.answer import Timed, Workload
from kvtrace.breakeven.ask import bandwidth, flops_per_s, number
from kvtrace.breakeven.requests import Accesses, before, firsts, loads_of
from kvtrace.breakeven.settings import Assumption, Settings, basis
from kvtrace.hierarchy.native import LOAD
from kvtrace.native.hashmap import Interner
from kvtrace.trace.schema import Op, Phase, Tier

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.hierarchy.events import BlockEvents
    from kvtrace.whatif.workload import Run


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of each combination: GPUs, and the bandwidth of a load; None: only its need."""

    settings: Settings
    drive_bytes_per_s: float | None


def asked(
    *,
    gpu: Any = None,
    gpus: Any = None,
    flops: Any = None,
    mfu: Any = None,
    drive_bandwidth: Any = None,
) -> Question | None:
    """Return what arguments or options of these names ask; None without any. Raises UsageError."""
    if all(value is None for value in (gpu, gpus, flops, mfu, drive_bandwidth)):
        return None
    settings = Settings(
        gpu=None if gpu is None else arguments.text(gpu, "gpu"),
        gpus=None if gpus is None else arguments.count(gpus, "gpus", least=-(1 << 62)),
        mfu=None if mfu is None else number(mfu, "mfu"),
        flops_per_s=None if flops is None else flops_per_s(flops),
    )
    return Question(settings, None if drive_bandwidth is None else bandwidth(drive_bandwidth))


class Worth:
    """Gathers the hits of one run."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._parts: list[tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]] = []

    def add(self, events: BlockEvents) -> None:
        """Take some more events, all hits among them."""
        hit = (events.op == Op.READ) & (events.phase == Phase.DECODE) & (events.step == LOAD)
        self._parts.append((events.request[hit], events.tier[hit], events.tokens[hit]))

    def answer(self, run: Run) -> Workload | None:
        """Return what loads from the slowest tier need or win; None where none is below gpu.

        Bytes are the node's. Raises UsageError for settings or a model without an answer.
        """
        prompts = run.prompts
        assert prompts is not None
        model = prompts.model()
        ground = basis(self._question.settings, model, ranks=prompts.ranks)
        accesses = self._accesses(run)
        below = [tier for tier in accesses.tiers() if tier != Tier.GPU]
        if not below:
            return None
        loads = loads_of(accesses, below[-1], ground)
        drive = self._question.drive_bytes_per_s
        assumptions = (Assumption("model", model.name, "the requests"), *ground.assumptions)
        facts = (model.name, below[-1], loads, ground)
        if drive is None:
            return Workload(*facts, assumptions)
        given = Assumption("bandwidth of a load", f"{drive / 1e9:g} GB/s", "given")
        load_s = loads.moved_bytes / drive
        return Timed(*facts, (*assumptions, given), load_s, None, None, 0, False, drive)

    def _accesses(self, run: Run) -> Accesses:
        assert run.prompts is not None
        request = np.concatenate([part[0] for part in self._parts])
        index = Interner().intern(request)
        place = np.arange(len(index))
        order = np.lexsort((-place if run.prompts.tail_first else place, index))
        request, index = request[order], index[order]
        tier = np.concatenate([part[1] for part in self._parts])[order]
        tokens = np.concatenate([part[2] for part in self._parts])[order]
        factors = np.array([run.factors.get(each, 1.0) for each in Tier])
        moved = run.counter.object_bytes(tokens) * factors[tier]
        known = np.maximum(0, tokens) * run.prompts.token_unit  # a checkpoint computes nothing
        return Accesses(
            requests=request[firsts(index)].view(np.uint64),
            request=index,
            hit=np.ones(len(index), np.bool_),
            tier=tier,
            moved_bytes=moved.round().astype(np.int64),
            tokens=known,
            begin=before(known, index),
        )
