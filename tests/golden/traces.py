"""The golden traces: small recordings whose content must not change unnoticed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support import places

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = places.ROOT / "traces"

_SMALL = {
    "model": "tiny-1b",
    "source.users": 3,
    "requests": 6,
    "tiers.gpu.capacity": "32MiB",
    "tiers.cpu.capacity": "64MiB",
    "tiers.nvme.capacity": "256MiB",
    "source.max_context_tokens": 6000,
}

GOLDEN: dict[str, dict[str, Any]] = {
    "waterfall": _SMALL | {"block_tokens": 256},
    "write-through-tp2": _SMALL
    | {"block_tokens": 512, "tensor_parallel": 2, "write_policy": "write-through"},
    "request-layout": _SMALL | {"layout": "request", "tiers.nvme.capacity": "1GiB"},
    "hybrid": _SMALL
    | {
        "requests": 4,
        "model": "gpt-oss-20b",
        "source.rag": {"probability": 0.5},
        "lookups": True,
    },
    "accesses": _SMALL
    | {
        "requests": 30,
        "source.users": 5,
        "source.system_prompts.probability": 0.8,
        "tiers.gpu.capacity": 0,
        "tiers.cpu.capacity": 0,
        "tiers.nvme.capacity": "unlimited",
    },
}
"""Configuration of each golden trace, by name."""


def path_of(name: str) -> Path:
    """Return where a golden trace lies."""
    return FOLDER / f"golden-{name}.parquet"
