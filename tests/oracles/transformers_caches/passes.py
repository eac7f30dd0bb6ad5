"""One forward pass of a model, and the cache it leaves."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from .defaults import CODEBOOKS
from .meta import MetaAnswers
from .models import text_config

ENCODER_TOKENS = 48
OUTPUTS = ("past_key_values", "cache", "cache_params", "state", "mems")

torch.distributions.Distribution.set_default_validate_args(False)


class EncoderOutput(BaseModelOutput):
    """An encoder's output; whatever else a model reads from it is None."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


class NoCacheError(Exception):
    """The forward pass returned no cache."""


def width(config: PreTrainedConfig) -> int:
    """Return the hidden size of a decoder."""
    text = text_config(config)
    sizes = (getattr(text, name, None) for name in ("hidden_size", "d_model", "n_embd"))
    return next(int(size) for size in sizes if size)


def encoder_output(config: PreTrainedConfig, device: str) -> BaseModelOutput:
    """Return an encoder's output of `ENCODER_TOKENS` tokens."""
    names = ("encoder", "text_encoder", "encoder_config")
    encoders = [getattr(config, n, None) for n in names]
    encoder = next((e for e in encoders if isinstance(e, PreTrainedConfig)), None)
    nested = getattr(encoder, "text_config", None)
    size = getattr(nested or encoder, "hidden_size", None) or width(config)
    states = torch.zeros((1, ENCODER_TOKENS, size), dtype=torch.bfloat16, device=device)
    return EncoderOutput(last_hidden_state=states)


def inputs(
    model: PreTrainedModel, config: PreTrainedConfig, tokens: int, device: str
) -> dict[str, Any]:
    """Return the arguments of a pass over text alone; an encoder's output is given as computed."""
    accepted = inspect.signature(model.forward).parameters
    before, after = CODEBOOKS.get(config.model_type, (0, 0))
    shape = (before or 1, tokens, *([after] if after else []))
    ids = torch.zeros(shape, dtype=torch.long, device=device)
    arguments: dict[str, Any] = {"use_cache": True}
    if "return_dict" in accepted:
        arguments["return_dict"] = True
    if "decoder_input_ids" in accepted:
        arguments["decoder_input_ids"] = ids
        arguments["encoder_outputs"] = encoder_output(config, device)
    elif "input_ids" in accepted:
        arguments["input_ids"] = ids
    elif "inputs_embeds" in accepted:
        arguments["inputs_embeds"] = torch.zeros(
            (1, tokens, width(config)), dtype=torch.bfloat16, device=device
        )
    else:
        raise NoCacheError("the model takes no tokens")
    return arguments


def empty_cache(config: PreTrainedConfig) -> Any:
    """Return the cache that `generate` passes in."""
    if not hasattr(text_config(config), "num_hidden_layers"):
        return EncoderDecoderCache(DynamicCache(), DynamicCache())
    return DynamicCache(config=text_config(config))


def forward(
    model: PreTrainedModel, config: PreTrainedConfig, tokens: int, *, pass_cache: bool
) -> tuple[Any, set[str]]:
    """Run one pass; return what holds the cache, and the questions answered for meta tensors.

    With `pass_cache` the pass gets an empty cache; otherwise the model makes its own.

    Raises NoCacheError where the output has no cache and the given one stays empty.
    """
    device = model.device.type
    answers = MetaAnswers()
    try:
        output, given = call(model, config, tokens, pass_cache)
    except Exception:
        if device != "meta":
            raise
        with answers:
            output, given = call(model, config, tokens, pass_cache)
    for name in OUTPUTS:
        cache = getattr(output, name, None)
        if cache is not None:
            return cache, answers.asked
    if given is not None and any(getattr(layer, "is_initialized", False) for layer in given.layers):
        return given, answers.asked
    raise NoCacheError("the output has no cache")


def call(
    model: PreTrainedModel, config: PreTrainedConfig, tokens: int, pass_cache: bool
) -> tuple[Any, Any]:
    """Call the model; return its output and the cache that was passed in."""
    device = model.device.type
    arguments = inputs(model, config, tokens, device)
    given = empty_cache(config) if pass_cache else None
    if given is not None:
        arguments["past_key_values"] = given
    with torch.device(device), torch.no_grad():
        return model(**arguments), given


def module_states(model: PreTrainedModel) -> dict[int, dict[str, torch.Tensor]]:
    """Return the states that a model keeps in its own modules (RecurrentGemma), by layer."""
    states: dict[int, dict[str, torch.Tensor]] = {}
    for name, module in model.named_modules():
        conv = getattr(module, "conv1d_state", None)
        if isinstance(conv, torch.Tensor):
            layer = next(int(part) for part in name.split(".") if part.isdigit())
            recurrent = module.rg_lru.recurrent_states
            states[layer] = {"conv_states.0": conv, "recurrent_states.0": recurrent}
    return states
