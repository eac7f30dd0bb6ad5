"""Rewrites golden traces and the schema of results; `make bless` shows by git what changed."""

from __future__ import annotations

import json
from pathlib import Path

import replay
from kvtrace.config import load_config
from kvtrace.pipeline import record
from replay.document import ResultDocument
from tests.golden import GOLDEN, path_of

SCHEMA_PATH = Path(replay.__file__).parent / "result.schema.json"


def schema_text() -> str:
    """Return the JSON schema of results as it is shipped."""
    return json.dumps(ResultDocument.model_json_schema(), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write all of them anew."""
    SCHEMA_PATH.write_text(schema_text(), encoding="utf-8")
    for name, options in GOLDEN.items():
        record(load_config(None, options), path_of(name), force=True)


if __name__ == "__main__":
    main()
