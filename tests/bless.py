"""Rewrites the golden traces and says which changed: `make bless`."""

from __future__ import annotations

from kvtrace.config import load_config
from kvtrace.pipeline import record
from kvtrace.reader import open_trace
from tests.golden import GOLDEN, path_of


def main() -> None:
    """Record every golden trace anew."""
    for name, options in GOLDEN.items():
        path, before = path_of(name), None
        if path.exists():
            with open_trace(path) as trace:
                before = trace.header.content_sha256
        made = record(load_config(None, options), path, force=True)
        changed = "unchanged" if made.header.content_sha256 == before else "CHANGED"
        print(f"{path.name}: {made.header.totals.rows} rows, {changed}")


if __name__ == "__main__":
    main()
