"""Sources of requests, one file each.

A source is a module with `create(context) -> Source` and `KEYS`, the keys of `SourceConfig` that
have an effect on it; the first line of its docstring is what `kvtrace list sources` says. `NEEDS`,
if it has one, is the package without which it isn't available.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvtrace import plugins
from kvtrace.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from kvtrace.request import Source
    from kvtrace.source_config import SourceConfig


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What a source is made from. `by_turn`: the layout wants each turn's tokens."""

    config: SourceConfig
    inputs: tuple[Path, ...]
    seed: int
    end_ns: int
    by_turn: bool
    workers: int


def create(context: SourceContext) -> Source:
    """Return the source that `context.config` names. Raises UsageError or TraceError."""
    module = _module(context.config.name)
    _check_keys(context.config, module.KEYS)
    source: Source = module.create(context)
    return source


def keys(name: str) -> frozenset[str]:
    """Return the keys of `SourceConfig` that have an effect on source `name`."""
    found: frozenset[str] = _module(name).KEYS
    return found


def _module(name: str) -> ModuleType:
    return plugins.load("kvtrace.sources", name, kind="source")


def _check_keys(config: SourceConfig, used: frozenset[str]) -> None:
    """Raise UsageError for a key that was set, and not to its default, but has no effect."""
    fields = type(config).model_fields
    for key in sorted(config.model_fields_set - used - {"name", "input"}):
        value = getattr(config, key)
        if value != fields[key].default:
            raise UsageError(
                f"has no effect on source {config.name}",
                where=f"source.{key}",
                got=value,
                accepted=f"source.{', '.join(sorted(used))}",
                hint="leave it out",
            )
