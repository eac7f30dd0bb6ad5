"""Choice and construction of a type's model."""

from __future__ import annotations

import copy
import importlib
import inspect
import re
from typing import TYPE_CHECKING

import torch
import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from .defaults import ON_CPU, OVERRIDES

if TYPE_CHECKING:
    from types import ModuleType

PLAIN = ("CAUSAL_LM", "MULTIMODAL_LM", "IMAGE_TEXT_TO_TEXT", "SEQ_TO_SEQ_CAUSAL_LM",
         "SPEECH_SEQ_2_SEQ", "TEXT_TO_WAVEFORM", "TEXT_TO_SPECTROGRAM")  # fmt: skip
COMPOSITE = (*PLAIN[1:5], "CAUSAL_LM", *PLAIN[5:])
FIRST_NAMES = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel", "Model")
MAX_TRIES = 12
OTHER_TASKS = ("Classification", "Answering", "MaskedLM", "MultipleChoice", "NextSentence",
               "Reward")  # fmt: skip


def default_config(model_type: str) -> PreTrainedConfig:
    """Return the class's default configuration, completed where that builds no model."""
    keys = OVERRIDES.get(model_type, {}) | ON_CPU.get(model_type, {})
    return CONFIG_MAPPING[model_type](**copy.deepcopy(keys))


def text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the configuration of the decoder inside `config`, or `config` itself."""
    return config.get_text_config(decoder=True)


def is_latent(config: PreTrainedConfig) -> bool:
    """True for multi-head latent attention, in some layers at least."""
    text = text_config(config)
    layers = text.per_layer_config if hasattr(text, "num_hidden_layers") else [text]
    return any(getattr(layer, "kv_lora_rank", None) for layer in layers)


def table(name: str) -> dict[str, str | tuple[str, ...]]:
    """Return one of the auto classes' tables: type to class name or names."""
    return getattr(modeling_auto, f"MODEL_FOR_{name}_MAPPING_NAMES")


def generates(model_type: str) -> bool:
    """True if an auto class for generation knows the type."""
    return any(model_type in table(name) for name in PLAIN)


def mapped_classes(model_type: str, config: PreTrainedConfig) -> list[type[PreTrainedModel]]:
    """Return the classes that auto classes load for the type, generating ones first."""
    composite = config.is_encoder_decoder or text_config(config) is not config
    tables = [table(name) for name in (COMPOSITE if composite else PLAIN)]
    names: list[str] = []
    for known in [*tables, modeling_auto.MODEL_MAPPING_NAMES]:
        entry = known.get(model_type, ())
        names += [entry] if isinstance(entry, str) else list(entry)
    return [getattr(transformers, n) for n in dict.fromkeys(names) if hasattr(transformers, n)]


def modeling_file(config: PreTrainedConfig) -> ModuleType | None:
    """Return the module with the models of a configuration class."""
    name = type(config).__module__.replace("configuration_", "modeling_")
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def file_classes(config: PreTrainedConfig) -> list[type[PreTrainedModel]]:
    """Return the models in the configuration's own file that take it, generating ones first."""
    module = modeling_file(config)
    models = [
        c
        for c in (vars(module).values() if module else ())
        if inspect.isclass(c)
        and issubclass(c, PreTrainedModel)
        and c.__module__ == module.__name__
        and getattr(c, "config_class", None) is type(config)
        and not c.__name__.endswith("PreTrainedModel")
        and not any(task in c.__name__ for task in OTHER_TASKS)
    ]
    return sorted(models, key=lambda c: [not c.__name__.endswith(n) for n in FIRST_NAMES])


def takes_cache(config: PreTrainedConfig) -> bool:
    """True if a forward pass in the configuration's modeling file has a cache among its inputs."""
    module = modeling_file(config)
    source = inspect.getsource(module) if module else ""
    return re.search(r"\b(cache|past_key_values|cache_params):", source) is not None


def candidates(
    model_type: str, config: PreTrainedConfig
) -> list[tuple[type[PreTrainedModel], PreTrainedConfig]]:
    """Return the models to try, in order, each with the configuration that builds it."""
    text = text_config(config)
    tries = [(c, config) for c in mapped_classes(model_type, config)]
    if text is not config and not config.is_encoder_decoder:
        tries += [(c, text) for c in mapped_classes(text.model_type, text)]
        tries += [(c, text) for c in file_classes(text)]
    tries += [(c, config) for c in file_classes(config)]
    unique = {(cls, id(part)): (cls, part) for cls, part in tries}
    return list(unique.values())[:MAX_TRIES]


def build(
    cls: type[PreTrainedModel], config: PreTrainedConfig, attention: str, device: str
) -> PreTrainedModel:
    """Build a bfloat16 model; on the meta device it has shapes only."""
    with torch.device(device):
        model = cls._from_config(config, dtype=torch.bfloat16, attn_implementation=attention)
    if getattr(config, "num_experts_per_tok", None) and device == "meta":
        model.set_experts_implementation("eager")  # the one that asks for `nonzero`
    return model.to(device).eval()
