"""Models: how many bytes of KV state each keeps; one TOML file each, or a config.json."""

from __future__ import annotations

from kvtrace.models.catalogue import load_model, model_names, models
from kvtrace.models.dtypes import DTYPE_BYTES, dtype_bytes
from kvtrace.models.geometry import Model

__all__ = ["DTYPE_BYTES", "Model", "dtype_bytes", "load_model", "model_names", "models"]
