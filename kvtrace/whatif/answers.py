"""All answers to a what-if: a table of combinations, and curves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvtrace.errors import UsageError
from kvtrace.trace.schema import Tier
from kvtrace.whatif.curve import Curve, lru_curve, optimal_curve, simulated_curves, sizes
from kvtrace.whatif.grid import Outcome, combinations, outcomes
from kvtrace.whatif.references import References, collect

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kvtrace.trace.header import SourceInfo
    from kvtrace.whatif.workload import Run, Workload
    from kvtrace.whatif.worth import Question

FINE_SIZES, COARSE_SIZES = 64, 16
"""Sizes at which LRU's curve is told, which costs nothing, and at which others' are."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What each combination comes to, and curves of one tier: LRU, the optimum, then others.

    `block_bytes`: what a block takes of a tier below gpu. `source`: where the requests came from.
    """

    outcomes: list[Outcome]
    curves: list[Curve]
    block_bytes: float
    source: SourceInfo | None = None

    def document(self) -> dict[str, Any]:
        """Return the answers as JSON has them."""
        document: dict[str, Any] = {"combinations": [each.document() for each in self.outcomes]}
        if self.source is not None:
            document["source"] = self.source.model_dump(mode="json")
        if self.curves:
            document["block_bytes"] = self.block_bytes
            document["curves"] = {
                each.policy: {"blocks": each.blocks, "miss_ratio": each.miss_ratio}
                for each in self.curves
            }
        return document


def answer(
    workload: Workload,
    choices: Mapping[str, Sequence[str]],
    *,
    curves: Sequence[str] | None,
    question: Question | None = None,
) -> Answers:
    """Simulate every combination of `choices` and return the answers.

    `curves`: policies whose curves are wanted beside those of LRU and the optimum; None: no curves.
    `question`: compare each one's loads with recomputing.
    """
    run = workload.reference_run()
    references = None if run is None else collect(run)
    answered = list(outcomes(workload, combinations(choices), references, question))
    if curves is None:
        return Answers(answered, [], 0.0, workload.source())
    if run is None or references is None:
        raise UsageError(
            "no curve of tiers that don't begin empty, or are emptied by a restart",
            where="--curve",
            got="a warm-up, a restart or a decode-only node",
        )
    made = _curves(references, curves)
    return Answers(answered, made, _block_bytes(run, references), workload.source())


def _curves(references: References, policies: Sequence[str]) -> list[Curve]:
    coarse = sizes(references.distinct, COARSE_SIZES)
    fine = sorted({*coarse, *sizes(references.distinct, FINE_SIZES)})
    return [
        lru_curve(references, fine),
        optimal_curve(references, coarse),
        *simulated_curves(references, policies, coarse),
    ]


def _block_bytes(run: Run, references: References) -> float:
    tier = run.spec.tiers[Tier.NVME]
    tokens = run.block_tokens or references.mean_tokens
    return max(1, tokens * tier.token_bytes + tier.block_bytes)
