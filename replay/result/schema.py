"""The JSON schema of results, written from their classes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from replay.result.document import ResultDocument

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_UNITS = {
    "tokens_per_s": "tokens/s",
    "tokens_per_sec": "tokens/s",
    "bytes_per_s": "bytes/s",
    "bytes_per_token": "bytes/token",
    "_per_s": "1/s",
    "s_per_gb": "s/GB",
    "_ns": "ns",
    "_us": "µs",
    "_ms": "ms",
    "_s": "s",
    "bytes": "bytes",
    "ratio": "ratio",
}
"""The unit that ends a figure's name; the first that fits counts."""


def unit_of(name: str) -> str | None:
    """Return the unit of a figure, which its name ends with; None for counts and words."""
    base = name.removesuffix("_mean").removesuffix("_max")
    return next((unit for ending, unit in _UNITS.items() if base.endswith(ending)), None)


def schema(model: type[BaseModel] = ResultDocument) -> dict[str, Any]:
    """Return the schema of results, of old ones too: what they lack isn't required.

    Each figure whose name ends with a unit has it as `unit`.
    """
    written = model.model_json_schema()
    for properties in _properties(written):
        for name, figure in properties.items():
            unit = unit_of(name)
            if unit is not None and "unit" not in figure:
                figure["unit"] = unit
    return {"$schema": DIALECT, **written}


def text(model: type[BaseModel] = ResultDocument) -> str:
    """Return the schema as indented JSON."""
    return json.dumps(schema(model), indent=1, ensure_ascii=False)


def _properties(written: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what each class of a schema has."""
    for each in (written, *written.get("$defs", {}).values()):
        yield each.get("properties", {})
