"""Sources of requests, one file each.

A source is a module with `create(context) -> Source`; the first line of its docstring is what
`kvtrace list sources` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvtrace import plugins

if TYPE_CHECKING:
    from pathlib import Path

    from kvtrace.config import SourceConfig
    from kvtrace.request import Source


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
    module = plugins.load("kvtrace.sources", context.config.name, kind="source")
    source: Source = module.create(context)
    return source
