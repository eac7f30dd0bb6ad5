"""The result as the MLPerf Storage KV cache benchmark's own tools read it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from replay.report.mlperf.summary import result_of

if TYPE_CHECKING:
    from pathlib import Path

    from replay.result.document import ResultDocument

SUFFIX = ".mlperf.json"


def write(document: ResultDocument, path: Path) -> None:
    """Write the report to `path`."""
    text = json.dumps(result_of(document), indent=4, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
