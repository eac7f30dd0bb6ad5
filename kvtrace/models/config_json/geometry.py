"""Heads, widths and windows as the decoders of the field state them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvtrace.errors import TraceError
from kvtrace.models.config_json import parts
from kvtrace.models.dtypes import DTYPE_BYTES

if TYPE_CHECKING:
    from kvtrace.models.config_json.keys import Keys
    from kvtrace.models.config_json.parts import Part

HEADS = "num_attention_heads"


def layers_of(keys: Keys, *names: str) -> int:
    """Return the number of layers. Raises TraceError for more than any model has."""
    count = keys.first(names or ("num_hidden_layers",))
    if count > 1 << 14:
        raise keys.bad((names or ("num_hidden_layers",))[0], f"up to {1 << 14:,}")
    return count


def head_dim(keys: Keys, default: int | None = None, key: str = "head_dim") -> int:
    """Return the width of a head: stated, the class's default, or hidden size over heads."""
    if key in keys:
        return keys.number(key)
    if default is not None:
        if keys.stated(key):
            raise keys.bad(key, "a whole number")
        return default
    keys.ignore(key)
    heads, hidden = keys.number(HEADS), keys.number("hidden_size")
    if hidden % heads:
        raise TraceError(
            f"hidden_size isn't a multiple of {HEADS}",
            where=keys.where,
            got=f"{hidden} and {heads}",
            accepted=f"a stated {key}",
        )
    return hidden // heads


def filled_in(keys: Keys, default: int, *names: str) -> int:
    """Return the number under any of `names`, or what the class fills in if none is in the file.

    Raises TraceError for `null`, which isn't the same: code differs on what it means.
    """
    if not any(name in keys for name in names) and any(keys.stated(name) for name in names):
        raise keys.bad(names[0], "a whole number")
    return keys.first(names, default)


def kv_heads(keys: Keys, default: int | None = None, key: str = "num_key_value_heads") -> int:
    """Return the KV heads: stated, the class's default, or as many as there are heads.

    `default`: what the class fills in where the key is absent; None where it takes the number of
    heads, for `null` too. Raises TraceError for a number that doesn't divide the heads.
    """
    if key in keys:
        count = keys.number(key)
    elif default is None:
        keys.ignore(key)
        count = keys.number(HEADS)
    elif keys.stated(key):
        raise keys.bad(key, "a whole number")
    else:
        count = default
    if HEADS in keys and keys.number(HEADS) % count:
        raise TraceError(
            f"{HEADS} isn't a multiple of the KV heads",
            where=keys.where,
            got=f"{keys.number(HEADS)} and {count}",
            accepted=f"a {key} that divides the heads",
        )
    return count


def _positions(keys: Keys) -> int | None:
    """Return how long a context may get: the positions, or what scaling makes of them.

    YaRN scales the original positions, linear and dynamic scaling those that the file states;
    other kinds state the longer context themselves. Source: vLLM 0.32, config/model.py.
    """
    if "max_position_embeddings" not in keys:
        return None
    positions = keys.number("max_position_embeddings")
    for name in ("rope_scaling", "rope_parameters"):
        scaling = keys.data.get(name)
        if not isinstance(scaling, dict) or not isinstance(scaling.get("factor"), int | float):
            continue
        kind = scaling.get("rope_type") or scaling.get("type")
        original = scaling.get("original_max_position_embeddings")
        if kind == "yarn" and isinstance(original, int):
            positions = max(positions, int(original * scaling["factor"]))
        elif kind in ("yarn", "linear", "dynamic"):
            positions = max(positions, int(positions * scaling["factor"]))
    return positions


def windowed(keys: Keys, heads: int, dim: int, tokens: int, v_dim: int | None = None) -> Part:
    """Return a layer with a window: a full one where the window holds all positions."""
    positions = _positions(keys)
    if positions is not None and tokens >= positions:
        return parts.full(heads, dim, v_dim)
    return parts.window(heads, dim, tokens, v_dim)


def ssm_bytes(keys: Keys, *names: str) -> int:
    """Return the bytes of a value of recurrent state: of its stated type, else of fp32.

    Source: transformers 5.24 and SGLang 0.5 keep it in fp32; vLLM 0.32 in the model's own type
    unless the file or its user says otherwise.
    """
    for key in names:
        word = keys.word(key)
        if word is not None and word != "auto":
            if word.removeprefix("torch.") not in DTYPE_BYTES:
                raise keys.bad(key, "a dtype: " + ", ".join(DTYPE_BYTES))
            return DTYPE_BYTES[word.removeprefix("torch.")]
    return parts.FP32_BYTES
