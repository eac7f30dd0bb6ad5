"""Times of a prefill: by the FLOPs of a model, at a measured rate, or by a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from kvtrace.errors import UsageError
from kvtrace.models.layers import FullAttention

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvtrace.models import Model
    from kvtrace.models.compute import Compute

    Values = NDArray[np.float64]

MOONCAKE_A, MOONCAKE_B = 4.0, 22.0
"""Source: Mooncake, FAST'25, section 2.2: FLOPs(p) = l · (a·p²·d + b·p·d²)."""


class Recompute(Protocol):
    """Time to compute prompts from their first token on."""

    def seconds(self, tokens: Values) -> Values:
        """Return the seconds that prompts of `tokens` take, the HBM floor taken off."""
        ...


@dataclass(frozen=True, slots=True)
class ByParameters:
    """2 FLOPs per active parameter and token, and attention over the tokens before each."""

    model: Model
    compute: Compute
    flops_per_s: float

    def flops(self, tokens: Values) -> Values:
        """Return the FLOPs of prompts."""
        attention = self.compute.attention_flops(self.model.attention, tokens)
        return 2.0 * self.compute.active_parameters * tokens + attention

    def seconds(self, tokens: Values) -> Values:
        """Return the seconds of prompts."""
        return self.flops(tokens) / self.flops_per_s


@dataclass(frozen=True, slots=True)
class ByMooncake:
    """FLOPs by hidden size and layers alone, for dense models with grouped-query attention."""

    layers: int
    hidden_size: int
    flops_per_s: float

    @classmethod
    def of(cls, model: Model, compute: Compute, flops_per_s: float) -> ByMooncake:
        """Return the formula of a model. Raises UsageError for one that it doesn't describe."""
        full = all(isinstance(group, FullAttention) for group in model.attention)
        if not full or compute.query_heads * compute.head_dim != compute.hidden_size:
            raise UsageError(
                "describes dense models with grouped-query attention as wide as the model",
                where="--formula", got=f"mooncake of {model.name}", accepted="parameters",
            )  # fmt: skip
        return cls(model.layers, compute.hidden_size, flops_per_s)

    def flops(self, tokens: Values) -> Values:
        """Return the FLOPs of prompts."""
        wide = float(self.hidden_size)
        per_layer = MOONCAKE_A * tokens * tokens * wide + MOONCAKE_B * tokens * wide * wide
        return self.layers * per_layer

    def seconds(self, tokens: Values) -> Values:
        """Return the seconds of prompts."""
        return self.flops(tokens) / self.flops_per_s


@dataclass(frozen=True, slots=True)
class ByRate:
    """A measured rate of prefill, the same for prompts of any length."""

    tokens_per_s: float
    floor_s: float = 0.0

    def seconds(self, tokens: Values) -> Values:
        """Return the seconds of prompts, at least 0."""
        return np.maximum(0.0, tokens / self.tokens_per_s - self.floor_s * (tokens > 0))


@dataclass(frozen=True, slots=True)
class ByTable:
    """Measured times of prompts; lines between them, and as the nearest two beyond them.

    `tokens` rise. `seconds_of`: with the floor taken off.
    """

    tokens: Values
    seconds_of: Values = field(repr=False)

    def seconds(self, tokens: Values) -> Values:
        """Return the seconds of prompts, at least 0."""
        known, times = self.tokens, self.seconds_of
        if known[0] > 0:
            known, times = np.append(0.0, known), np.append(0.0, times)
        inside = np.interp(tokens, known, times)
        slope = (times[-1] - times[-2]) / (known[-1] - known[-2])
        beyond = times[-1] + np.maximum(0.0, tokens - known[-1]) * slope
        return np.maximum(0.0, np.where(tokens > known[-1], beyond, inside))


def needed_bytes_per_s(moved_bytes: Values, recompute_s: Values) -> Values:
    """Return the bandwidth above which loading is faster; infinite where nothing is to compute."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(recompute_s > 0, moved_bytes / recompute_s, np.inf)
