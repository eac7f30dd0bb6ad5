"""Token counts of texts, by a tokenizer or by length."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvtrace.errors import TraceError, UsageError
from kvtrace.trace.writer import file_sha256

if TYPE_CHECKING:
    from collections.abc import Callable

CHARACTERS_PER_TOKEN = 4
BY_LENGTH = f"characters ÷ {CHARACTERS_PER_TOKEN}, rounded up"


def by_length(text: str) -> int:
    """Return about how many tokens `text` has."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)


def counter(file: str | None) -> tuple[Callable[[str], int], dict[str, Any]]:
    """Return what counts tokens, and what the header says of it.

    `file`: a tokenizer.json of Hugging Face `tokenizers`. Raises UsageError or TraceError.
    """
    if file is None:
        return by_length, {"tokens": BY_LENGTH}
    path = Path(file)
    if not path.is_file():
        raise UsageError("no such file", where="--tokenizer", got=file, accepted="a tokenizer.json")
    try:
        tokenizers = importlib.import_module("tokenizers")
    except ImportError as error:
        raise UsageError(
            "needs the package tokenizers",
            where="--tokenizer",
            hint="pip install 'kvtrace[tokenizers]', or leave it out to count characters ÷ 4",
        ) from error
    try:
        tokenizer = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the package raises nothing narrower
        raise TraceError(f"not a tokenizer: {error}", where=path) from error

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    return count, {"tokens": "tokenizer", "tokenizer_sha256": file_sha256(path)}
