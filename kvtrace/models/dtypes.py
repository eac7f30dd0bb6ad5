"""The types that a KV cache stores its values in, and their sizes."""

from __future__ import annotations

from kvtrace.errors import unknown_name

DTYPE_BYTES = {
    "bf16": 2,
    "bfloat16": 2,
    "fp16": 2,
    "float16": 2,
    "half": 2,
    "fp32": 4,
    "float32": 4,
    "float": 4,
    "fp8": 1,
    "fp8_e4m3": 1,
    "fp8_e5m2": 1,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int8": 1,
}
"""Bytes of one value of the KV cache, by the name of its type."""


def dtype_bytes(dtype: str, *, where: object = None) -> int:
    """Return the bytes of one value of type `dtype`. Raises UsageError: never guessed."""
    if dtype not in DTYPE_BYTES:
        raise unknown_name("dtype", dtype, DTYPE_BYTES, where=where)
    return DTYPE_BYTES[dtype]
