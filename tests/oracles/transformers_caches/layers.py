"""Descriptions of cache layers, from the caches of two passes of different length."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any

import torch

IGNORED = ("_sliding_window_tensor",)
Parts = list[tuple[str, Any]]


@dataclass(frozen=True)
class State:
    """A tensor of a cache layer: `shape` without the batch axis, `growing` axis and its rate."""

    shape: tuple[int, ...]  # 1 where it grows
    dtype: str
    growth: Fraction | None = None  # entries per token
    axis: int | None = None

    @property
    def elements(self) -> int:
        """Elements per sequence, or per entry of the growing axis."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    def __str__(self) -> str:
        grown = "" if self.growth is None else f"T/{1 / self.growth}" if self.growth != 1 else "T"
        sizes = [grown if axis == self.axis else str(n) for axis, n in enumerate(self.shape)]
        return "x".join(sizes)


@dataclass(frozen=True)
class Layer:
    """What one layer keeps."""

    kind: str  # the class of the cache layer, "cross:" before it for cross-attention
    window: int | None = None
    states: tuple[tuple[str, State], ...] = field(default=())


def tensors(value: Any, name: str = "") -> dict[str, torch.Tensor]:
    """Return every tensor inside a cache layer, by attribute path."""
    if isinstance(value, torch.Tensor):
        return {name: value}
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    elif type(value).__module__.startswith("transformers") and not hasattr(value, "model_type"):
        items = vars(value).items() if hasattr(value, "__dict__") else ()
    found: dict[str, torch.Tensor] = {}
    for key, part in items:
        if key not in IGNORED:
            found |= tensors(part, f"{name}.{key}" if name else str(key))
    return found


def parts(cache: Any) -> Parts:
    """Return a cache's layers as (kind, layer) pairs; cross-attention follows self-attention."""
    if hasattr(cache, "self_attention_cache"):
        cross = parts(cache.cross_attention_cache)
        return parts(cache.self_attention_cache) + [(f"cross:{kind}", part) for kind, part in cross]
    if getattr(cache, "linear_cache", None):
        return [minimax_part(cache, index) for index in range(len(cache.linear_cache))]
    if hasattr(cache, "rnn_state"):  # xLSTM
        return [
            ("xLSTM", {f"recurrent_states.{i}": part for i, part in enumerate(states)})
            for states in cache.rnn_state.values()
        ]
    if hasattr(cache, "layers"):
        return [(type(layer).__name__, layer) for layer in cache.layers]
    if isinstance(cache, list | tuple):
        return [(type(part).__name__, part) for part in cache]
    return [(type(cache).__name__, cache)]


def minimax_part(cache: Any, index: int) -> tuple[str, Any]:
    """Return a layer of MiniMax's cache, which keeps linear states in a list of its own."""
    state = cache.linear_cache[index]
    if isinstance(state, torch.Tensor):
        return "LinearAttentionLayer", {"recurrent_states.0": state}
    return type(cache.layers[index]).__name__, cache.layers[index]


def describe(short: Parts, long: Parts, tokens: tuple[int, int]) -> list[Layer]:
    """Describe each layer, from the parts of caches filled by passes over `tokens`."""
    result = []
    for (kind, layer), (_, longer) in zip(short, long, strict=True):
        window = getattr(longer, "sliding_window", None)
        before, after = tensors(layer), tensors(longer)
        states = tuple(
            (name, state(before.get(name, tensor), tensor, tokens))
            for name, tensor in after.items()
            if tensor.numel()  # buffers of incomplete groups of tokens are empty after whole ones
        )
        result.append(Layer(kind, None if window is None else int(window), states))
    return result


def state(short: torch.Tensor, long: torch.Tensor, tokens: tuple[int, int]) -> State:
    """Describe one tensor: an axis whose size differs between the passes grows with tokens."""
    dtype = str(long.dtype).removeprefix("torch.")
    shape = [int(n) for n in long.shape[1:]]
    for axis, (small, large) in enumerate(zip(short.shape[1:], long.shape[1:], strict=True)):
        if small != large:
            shape[axis] = 1
            growth = Fraction(int(large) - int(small), tokens[1] - tokens[0])
            return State(tuple(shape), dtype, growth, axis)
    return State(tuple(shape), dtype)


def ranges(indices: list[int]) -> str:
    """Return ascending indices as text: `0-3,5`, or `0-30/2` for a regular stride."""
    steps = {b - a for a, b in pairwise(indices)}
    if len(indices) > 2 and len(steps) == 1 and steps != {1}:
        return f"{indices[0]}-{indices[-1]}/{steps.pop()}"
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
