"""A configuration as YAML that can be read again, each value with where it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from kvtrace.recording.config import WHOLE, origin_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kvtrace.recording.config import Resolved


def as_yaml(resolved: Resolved) -> str:
    """Return the configuration as YAML that can be read again, each value with its origin."""
    values = resolved.config.model_dump(mode="json")
    return "\n".join(_lines(values, resolved.origins, "")) + "\n"


def _lines(section: Mapping[str, Any], origins: Mapping[str, str], prefix: str) -> Iterator[str]:
    indent = "  " * prefix.count(".")
    for name, value in section.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value and key not in WHOLE:
            yield f"{indent}{name}:"
            yield from _lines(value, origins, f"{key}.")
        else:
            text = yaml.safe_dump(value, default_flow_style=True, width=1 << 20)
            text = text.strip().removesuffix("...").strip()
            yield f"{indent}{name}: {text}  # {origin_of(origins, key)}"
