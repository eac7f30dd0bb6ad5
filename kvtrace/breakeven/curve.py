"""The curve: needed bandwidth over the length of a prefix, of a model on GPUs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.breakeven.recompute import needed_bytes_per_s
from kvtrace.show.numbers import short_rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from kvtrace.breakeven.recompute import Values
    from kvtrace.breakeven.settings import Assumption, Basis
    from kvtrace.models import Model

LENGTHS = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
HEADLINE_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class Curve:
    """Per prefix length: bytes of the node, seconds to recompute, bytes/s above which to load.

    With `drive_bytes_per_s`: seconds to load, and seconds where loading from the end meets
    computing from the start.
    """

    model: str
    basis: Basis
    tokens: NDArray[np.int64]
    moved_bytes: Values
    recompute_s: Values
    needed_bytes_per_s: Values
    drive_bytes_per_s: float | None
    load_s: Values | None
    both_s: Values | None
    bytes_assumption: Assumption

    def sentence(self) -> str:
        """Return the answer in a sentence: needed at the length nearest to 8,192 tokens."""
        at = int(np.abs(self.tokens - HEADLINE_TOKENS).argmin())
        text = (
            f"Loading a prefix of {self.tokens[at]:,} tokens of {self.model} "
            f"{pays_above(self.needed_bytes_per_s[at])} ({self.basis.label})"
        )
        if self.drive_bytes_per_s is None or self.load_s is None:
            return f"{text}."
        which = self._lengths(self.load_s < self.recompute_s)
        return f"{text}; at {short_rate(self.drive_bytes_per_s)} {which}."

    def _lengths(self, pays: NDArray[np.bool_]) -> str:
        """Return for which of the lengths loading pays, those that follow each other as a range."""
        if not pays.any():
            return "no length of these does"
        ends = np.flatnonzero(np.diff(np.concatenate(([False], pays, [False]))))
        runs = [
            f"from {self.tokens[begin]:,} tokens on" if end == len(pays)
            else f"at {self.tokens[begin]:,} tokens" if end == begin + 1
            else f"from {self.tokens[begin]:,} to {self.tokens[end - 1]:,} tokens"
            for begin, end in ends.reshape(-1, 2).tolist()
        ]  # fmt: skip
        return f"it pays {' and '.join(runs)}"

    @property
    def assumptions(self) -> tuple[Assumption, ...]:
        """All that the curve rests on."""
        return (self.bytes_assumption, *self.basis.assumptions)

    def records(self) -> list[dict[str, Any]]:
        """Return a flat row per length."""
        rows: list[dict[str, Any]] = []
        for at, tokens in enumerate(self.tokens.tolist()):
            row: dict[str, Any] = {
                "tokens": tokens,
                "bytes": round(float(self.moved_bytes[at])),
                "recompute_s": float(self.recompute_s[at]),
                "needed_bytes_per_s": float(self.needed_bytes_per_s[at]),
            }
            if self.load_s is not None and self.both_s is not None:
                row |= {"load_s": float(self.load_s[at]), "both_ends_s": float(self.both_s[at])}
            rows.append(row)
        return rows

    def document(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return {
            "kind": "curve",
            "sentence": self.sentence(),
            "model": self.model,
            "gpus": self.basis.gpus,
            "drive_bytes_per_s": self.drive_bytes_per_s,
            "assumptions": assumed(self.assumptions),
            "lengths": self.records(),
        }


def pays_above(needed_bytes_per_s: float) -> str:
    """Return above which bandwidth loading pays, or that none is enough."""
    if math.isinf(needed_bytes_per_s):
        return "pays at no bandwidth, for recomputing it takes no time"
    return f"pays above {short_rate(needed_bytes_per_s)}"


def assumed(assumptions: Sequence[Assumption]) -> list[dict[str, str]]:
    """Return assumptions as JSON has them."""
    return [{"name": a.name, "value": a.value, "from": a.origin} for a in assumptions]


def curve(
    model: Model,
    basis: Basis,
    bytes_assumption: Assumption,
    *,
    dtype: str | None = None,
    lengths: Sequence[int] = LENGTHS,
    drive_bytes_per_s: float | None = None,
) -> Curve:
    """Return the curve of a model. `dtype`: of the cache, None for the model's own."""
    tokens = np.array(lengths, np.int64)
    moved = prefix_bytes(model, tokens.astype(np.float64), dtype)
    recompute_s = basis.seconds(tokens.astype(np.float64))
    load_s = both_s = None
    if drive_bytes_per_s is not None:
        load_s = moved / drive_bytes_per_s
        pairs = zip(tokens.tolist(), load_s.tolist(), strict=True)
        both_s = np.array([meeting_s(basis, length, load) for length, load in pairs])
    needed = needed_bytes_per_s(moved, recompute_s)
    return Curve(
        model.name, basis, tokens, moved, recompute_s, needed, drive_bytes_per_s, load_s, both_s,
        bytes_assumption,
    )  # fmt: skip


def prefix_bytes(model: Model, tokens: Values, dtype: str | None) -> Values:
    """Return the bytes of prefixes: each token's, and the state of a sequence, windows filled."""
    constant, row, window = model.state(1, dtype)
    per_token = float(model.rank_bytes_per_token(1, dtype))
    state = float(constant.total) + tokens.clip(max=window) * float(row.total)
    return tokens * per_token + state


def meeting_s(basis: Basis, tokens: int, load_s: float) -> float:
    """Return when computing a prefix from its start meets loading it from its end.

    Source: Cake, arXiv 2410.03065 (2024-10).
    """
    low, high = 0.0, float(tokens)
    for _ in range(60):  # halves until the least part of a token
        middle = (low + high) / 2
        computed_s = float(basis.seconds(np.array([middle]))[0])
        if computed_s < load_s * (1 - middle / tokens):
            low = middle
        else:
            high = middle
    return float(load_s * (1 - high / tokens))
