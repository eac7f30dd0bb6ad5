"""Rows of the table: a type's bytes, and its layers as text."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from .layers import Layer, State, ranges

if TYPE_CHECKING:
    from .measure import Measured

VALUE_BYTES = 2
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
COLUMNS = (
    "model_type",
    "text_type",
    "config_class",
    "status",
    "layers",  # cache layers, cross-attention aside
    "bytes_per_token",  # of layers that grow with the context
    "sliding_bytes_per_token",  # of layers that grow up to their window
    "conv_bytes_per_sequence",  # at 2 bytes per value
    "recurrent_bytes_per_sequence",  # at the measured type
    "other_bytes_per_sequence",  # fixed buffers of other kinds, at the measured type
    "cross_bytes_per_encoder_token",
    "groups",
    "notes",
)  # fmt: skip


def row(measured: Measured, encoder_tokens: int) -> dict[str, str]:
    """Return the columns of one type."""
    own = [layer for layer in measured.layers if not layer.kind.startswith("cross:")]
    values = {
        "model_type": measured.model_type,
        "text_type": measured.text_type,
        "config_class": measured.config_class,
        "status": measured.status,
        "notes": "; ".join(measured.notes),
    }
    if not measured.layers:
        return dict.fromkeys(COLUMNS, "") | values
    cross = [layer for layer in measured.layers if layer.kind.startswith("cross:")]
    sums = {
        "layers": len(own),
        "bytes_per_token": sum(grown(layer) for layer in own),
        "sliding_bytes_per_token": sum(windowed(layer) for layer in own),
        "conv_bytes_per_sequence": fixed(own, "conv_states", as_measured=False),
        "recurrent_bytes_per_sequence": fixed(own, "recurrent_states", as_measured=True),
        "other_bytes_per_sequence": others(own),
        "cross_bytes_per_encoder_token": Fraction(
            sum(s.elements for layer in cross for _, s in layer.states) * VALUE_BYTES,
            encoder_tokens,
        ),
    }
    texts = {name: decimal(value) for name, value in sums.items()}
    return values | texts | {"groups": groups(measured.layers, measured.latent)}


def decimal(value: int | Fraction) -> str:
    """Return a number without trailing zeros."""
    return f"{float(value):.6f}".rstrip("0").rstrip(".") if value else "0"


def is_windowed(layer: Layer, name: str) -> bool:
    """True for the keys and values of a sliding layer, growing or already at their window."""
    return layer.window is not None and name in ("keys", "values")


def grown(layer: Layer) -> Fraction:
    """Return the bytes per token of what grows with the context."""
    return sum(
        (
            s.elements * s.growth * VALUE_BYTES
            for name, s in layer.states
            if s.growth is not None and s.dtype in DTYPE_BYTES and not is_windowed(layer, name)
        ),
        Fraction(0),
    )


def windowed(layer: Layer) -> int:
    """Return the bytes per token of keys and values that are kept up to a window."""
    states = [s for name, s in layer.states if is_windowed(layer, name)]
    return sum(s.shape[0] * s.shape[-1] * VALUE_BYTES for s in states)


def fixed(layers: list[Layer], prefix: str, *, as_measured: bool) -> int:
    """Return the bytes per sequence of states whose name begins with `prefix`."""
    return sum(
        s.elements * (DTYPE_BYTES[s.dtype] if as_measured else VALUE_BYTES)
        for layer in layers
        for name, s in layer.states
        if name.startswith(prefix)
    )


def others(layers: list[Layer]) -> int:
    """Return the bytes per sequence of fixed buffers that are neither windows nor states."""
    return sum(
        s.elements * DTYPE_BYTES.get(s.dtype, 0)
        for layer in layers
        for name, s in layer.states
        if s.growth is None
        and not name.startswith(("conv_states", "recurrent_states"))
        and not is_windowed(layer, name)
    )


def groups(layers: list[Layer], latent: bool) -> str:
    """Return the layers as text, equal ones together: `[0-2] sliding 8 heads k128 v128 w4096`."""
    parts: list[str] = []
    for cross in (False, True):
        chosen = [layer for layer in layers if layer.kind.startswith("cross:") == cross]
        members: dict[Layer, list[int]] = {}
        for index, layer in enumerate(chosen):
            members.setdefault(layer, []).append(index)
        parts += [f"[{ranges(i)}] {describe(layer, latent)}" for layer, i in members.items()]
    return "; ".join(parts)


def describe(layer: Layer, latent: bool) -> str:
    """Return what one layer keeps as text."""
    states = dict(layer.states)
    words = ["cross"] if layer.kind.startswith("cross:") else []
    if any(name.startswith(("conv_states", "recurrent_states")) for name in states):
        words.append("linear")
    keys, values = states.pop("keys", None), states.pop("values", None)
    if keys is not None and values is not None:
        words.append("mla" if latent else "")
        words.append("sliding" if layer.window is not None else "full")
        words.append(f"{heads(keys)} heads k{keys.shape[-1]} v{values.shape[-1]}")
    if layer.window is not None:
        words.append(f"w{layer.window}")
    words += [
        f"{name.replace('_states.0', '_states')} {text(s)}".strip() for name, s in states.items()
    ]
    return " ".join(word for word in words if word) or "none"


def heads(keys: State) -> int:
    """Return the number of heads of a layer's keys."""
    return keys.shape[0] if len(keys.shape) == 3 else 1


def text(state: State) -> str:
    """Return a state's shape, and its type if that isn't the model's."""
    return str(state) if state.dtype == "bfloat16" else f"{state}:{state.dtype}"
