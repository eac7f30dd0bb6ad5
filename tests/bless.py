"""Rewrites the golden traces; `make bless` shows by git what changed."""

from __future__ import annotations

from kvtrace.config import load_config
from kvtrace.pipeline import record
from tests.golden import GOLDEN, path_of


def main() -> None:
    """Record every golden trace anew."""
    for name, options in GOLDEN.items():
        record(load_config(None, options), path_of(name), force=True)


if __name__ == "__main__":
    main()
