"""Reads KV geometry from a Hugging Face `config.json`: only what is understood, else refused."""

from __future__ import annotations

import re
from typing import Any

from kvtrace.errors import TraceError
from kvtrace.models.config_json.compute import compute_of
from kvtrace.models.config_json.families import readers
from kvtrace.models.config_json.families.older import stated
from kvtrace.models.config_json.keys import MODEL_FILE, Keys
from kvtrace.models.config_json.parts import grouped
from kvtrace.models.config_json.refused import REFUSED
from kvtrace.models.config_json.shaping import refuse_unread

TEXT_KEYS = ("text_config", "llm_config", "language_config", "thinker_config")
"""Keys of the language model's configuration in multimodal models."""
TEXT_TYPES = {
    "llava": "llama",
    "gemma3": "gemma3_text",
    "llama4": "llama4_text",
    "mistral3": "mistral",
    "qwen2_5_vl": "qwen2_5_vl_text",
    "qwen2_vl": "qwen2_vl_text",
}
"""The language model's type where the inner object states none, as the class fills it in."""


def read(config: Any, where: object) -> dict[str, Any]:
    """Return the fields of a `Model` for a `config.json`; its `where` names it in errors.

    Raises TraceError for a configuration that states less than geometry needs, or anything about
    the cache that isn't understood.
    """
    if not isinstance(config, dict):
        raise TraceError("not a model configuration", where=where, accepted="a JSON object")
    outer = Keys(config, where)
    text, model_type = _text(outer)
    notes = []
    if model_type in REFUSED:
        raise TraceError(
            f"model_type {model_type!r} isn't read: {REFUSED[model_type]}",
            where=where,
            hint=MODEL_FILE,
        )
    reader = readers().get(model_type)
    if reader is None:
        reader = stated
        notes.append(
            f"model_type {model_type!r} isn't known: read as grouped-query attention in every "
            "layer, by the keys that the file states"
        )
    for key in ("is_encoder_decoder", "add_cross_attention"):
        text.must_be(key, False)
    layers = reader(text)
    origin = ", ".join(_short(text))
    cache_note = _quantised(outer) or _quantised(text)
    text.skip("text_config")
    refuse_unread(text, strict=model_type not in readers())
    if text is not outer:
        outer.skip(*(key for key, value in outer.data.items() if text.data.get(key) == value))
        refuse_unread(outer, wrapper=True)
    return {
        "name": str(config.get("_name_or_path") or config.get("model_type") or "model"),
        "source": "config.json",
        "date": "unknown",
        "dtype": _dtypes(text, outer),
        "notes": tuple(notes),
        "cache_note": cache_note,
        "query_heads": _query_heads(text),
        "compute": compute_of(model_type, text.data),
        "attention": grouped(layers, origin),
    }


def _short(text: Keys) -> list[str]:
    """Return the keys that the geometry was read from; those of a list of blocks, once."""
    names = (re.sub(r"\[\d+\]", "[]", name) for name in text.origin())
    return [name for name in dict.fromkeys(names) if name != "model_type"]


def _text(outer: Keys) -> tuple[Keys, str]:
    """Return the language model's keys and its type."""
    text = outer
    outer_type = _type(outer)
    for _ in range(2):
        present = [key for key in TEXT_KEYS if key in text]
        if not present:
            break
        if len(present) > 1:
            raise text.bad(present[1], f"one of {', '.join(present)}")
        inner = text.table(present[0])
        assert inner is not None
        if text.data.get("num_hidden_layers") not in (None, inner.data.get("num_hidden_layers")):
            raise text.bad("num_hidden_layers", f"that of {present[0]}")
        text = inner
    model_type = _type(text)
    if text is not outer and model_type is None:
        model_type = TEXT_TYPES.get(outer_type or "")
    if model_type is None:
        raise text.missing("model_type")
    return text, model_type


def _type(keys: Keys) -> str | None:
    return keys.word("model_type")


def _query_heads(text: Keys) -> int | None:
    """Return the attention heads, which tensor parallelism divides, if the file states a number."""
    heads = text.data.get("num_attention_heads")
    return heads if isinstance(heads, int) and not isinstance(heads, bool) and heads > 0 else None


def _dtypes(*objects: Keys) -> str:
    """Return the type that the file states, "" for none; several are none that is known."""
    words = [keys.word(key) for keys in objects for key in ("dtype", "torch_dtype")]
    stated = dict.fromkeys(word.removeprefix("torch.") for word in words if word is not None)
    return " or ".join(stated)


def _quantised(keys: Keys) -> str:
    """Return what the file says of a quantised cache, "" for nothing: sizes stay in its dtype."""
    note = ""
    for key in ("quantization_config", "quantization"):
        keys.skip(key)
        table = keys.data.get(key)
        if not isinstance(table, dict):
            continue
        for name in ("kv_cache_scheme", "kv_cache_quant_algo", "kv_cache_dtype"):
            if table.get(name) is not None:
                note = (
                    f"the file states a quantised KV cache ({name}: {_scheme(table[name])}); sizes "
                    "are in its dtype unless --dtype names the cache's, such as --dtype fp8"
                )
    return note


def _scheme(scheme: Any) -> str:
    if isinstance(scheme, dict):
        bits, kind = scheme.get("num_bits"), scheme.get("type")
        return f"{bits}-bit {kind}"
    return str(scheme)
