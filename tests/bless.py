"""Rewrites the golden traces and says which changed: `make bless`."""

from __future__ import annotations

from kvtrace.config import load_config
from kvtrace.pipeline import record
from kvtrace.reader import open_trace
from tests.golden import GOLDEN, path_of


def main() -> None:
    """Record every golden trace anew."""
    for name, options in GOLDEN.items():
        path, _before = path_of(name), None
        if path.exists():
            with open_trace(path):
                pass
        record(load_config(None, options), path, force=True)


if __name__ == "__main__":
    main()
