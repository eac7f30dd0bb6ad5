"""Families of architectures, one file each: what a configuration of theirs says of every layer.

A family is a module with `READERS`: from `model_type` to a function of the text model's keys that
returns the parts of each layer (parts.py). Keys that a reader doesn't ask for are refused if they
look as if they shaped the cache (shaping.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from kvtrace import plugins
from kvtrace.models.config_json.keys import Keys
from kvtrace.models.config_json.parts import Part

Reader = Callable[[Keys], list[list[Part]]]


def architectures() -> list[tuple[str, str]]:
    """Return every `model_type` that is understood, with its family; sorted."""
    return sorted(
        (model_type, plugins.summary(module))
        for name in plugins.names(plugins.FAMILY)
        for module in [plugins.load(plugins.FAMILY, name)]
        for model_type in module.READERS
    )


@cache
def readers() -> dict[str, Reader]:
    """Return the reader of every `model_type` that is understood."""
    readers: dict[str, Reader] = {}
    for name in plugins.names(plugins.FAMILY):
        readers |= plugins.load(plugins.FAMILY, name).READERS
    return readers
