"""Measurement of one type: the layers of its cache, or why there is none."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import layers, models, passes
from .defaults import NO_CACHE, ON_CPU, OVERRIDES

SHORT, LONG = (8, 16), (128, 256)  # tokens of the two passes
PLAIN_LAYERS = {
    "DummyLayer",
    "DynamicIndexedLayer",
    "DynamicLayer",
    "DynamicSlidingWindowLayer",
    "LinearAttentionAndFullAttentionLayer",
    "LinearAttentionAndSlidingWindowAttentionLayer",
    "LinearAttentionLayer",
}


@dataclass
class Measured:
    """A type's cache as measured; `status` is measured, no-cache or could-not."""

    model_type: str
    status: str = "could-not"
    text_type: str = ""
    config_class: str = ""
    model_class: str = ""
    latent: bool = False  # multi-head latent attention: keys hold the latent, values the rope part
    notes: list[str] = field(default_factory=list)
    layers: list[layers.Layer] = field(default_factory=list)


def measure(model_type: str) -> Measured:
    """Measure a type with its class's default configuration."""
    if model_type in NO_CACHE:
        return Measured(model_type, "no-cache", notes=[NO_CACHE[model_type]])
    result = Measured(model_type)
    try:
        config = models.default_config(model_type)
        text = models.text_config(config)
    except Exception as error:
        result.notes.append(f"no default configuration: {reason(error)}")
        return result
    result.text_type, result.config_class = text.model_type, type(config).__name__
    if not any(models.generates(c.model_type) or models.takes_cache(c) for c in (config, text)):
        result.status, result.notes = "no-cache", ["no model of its file takes a cache"]
    else:
        try_models(result, config)
    return result


def try_models(result: Measured, config: Any) -> None:
    """Fill in the measurement of the first model that leaves a cache."""
    errors: list[Exception] = []
    device = "cpu" if result.model_type in ON_CPU else "meta"
    for cls, part in models.candidates(result.model_type, config):
        for attention in ("eager", "sdpa"):
            try:
                model = models.build(cls, part, attention, device)
                found, asked = read(model, part)
            except Exception as error:
                errors.append(error)
                if isinstance(error, passes.NoCacheError):
                    break
                continue
            result.layers, result.model_class, result.status = found, cls.__name__, "measured"
            result.latent = models.is_latent(part)
            result.notes = notes(result.model_type, asked, part is not config)
            return
    none = any(isinstance(error, passes.NoCacheError) for error in errors)
    result.status = "no-cache" if none or not errors else "could-not"
    result.notes = [reason(errors[0])] if errors else ["no model class takes this configuration"]


def read(model: Any, config: Any) -> tuple[list[layers.Layer], set[str]]:
    """Run passes of two lengths, and describe the layers of the caches they leave."""
    for pass_cache in (False, True):
        try:
            described, asked = compare(model, config, SHORT, pass_cache)
            kinds = {layer.kind.removeprefix("cross:") for layer in described}
            if not kinds <= PLAIN_LAYERS:  # it may keep an entry per many tokens
                described, asked = compare(model, config, LONG, pass_cache)
        except Exception as error:
            failure = error
            continue
        return described, asked
    raise failure


def compare(
    model: Any, config: Any, tokens: tuple[int, int], pass_cache: bool
) -> tuple[list[layers.Layer], set[str]]:
    """Describe the caches that passes of two lengths leave."""
    caches = []
    asked: set[str] = set()
    for count in tokens:
        cache, questions = passes.forward(model, config, count, pass_cache=pass_cache)
        states = passes.module_states(model)
        parts = layers.parts(cache)
        caches.append([(kind, states.get(i, part)) for i, (kind, part) in enumerate(parts)])
        asked |= questions
    return layers.describe(caches[0], caches[1], tokens), asked


def notes(model_type: str, asked: set[str], text_only: bool) -> list[str]:
    """Return what a reader of the measurement has to know."""
    result = []
    if text_only:
        result.append("the text decoder alone, with the composite's defaults")
    if model_type in OVERRIDES:
        result.append(f"defaults alone do not run; set: {OVERRIDES[model_type]}")
    if model_type in ON_CPU:
        result.append(f"on the CPU with {ON_CPU[model_type]}")
    others = asked - {"nonzero"}
    if others:
        result.append(f"meta tensors asked for {', '.join(sorted(others))}")
    return result


def reason(error: Exception) -> str:
    """Return an error's first line and where it was raised."""
    lines = str(error).strip().splitlines() or [""]
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {lines[0][:160]} ({Path(frame.filename).name})"
