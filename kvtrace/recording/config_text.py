"""A configuration as YAML that can be read again, each value with where it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvtrace.options import layers
from kvtrace.recording.config import WHOLE

if TYPE_CHECKING:
    from kvtrace.recording.config import Resolved


def as_yaml(resolved: Resolved) -> str:
    """Return the configuration as YAML that can be read again, each value with its origin."""
    values = resolved.config.model_dump(mode="json")
    return layers.as_yaml(values, resolved.origins, WHOLE)
