"""Rewrites what is generated: golden traces, the columns in C, lists in the docs.

`make bless` shows by git what changed.
"""

from __future__ import annotations

import textwrap

from kvtrace.models.config_json.families import architectures
from kvtrace.recording.config import load_config
from kvtrace.recording.pipeline import record
from replay.ops.columns import header_text
from tests.golden.traces import GOLDEN, path_of
from tests.support import places

MODELS_PAGE = places.ROOT / "docs" / "models.md"
COLUMNS_PATH = places.ROOT / "replay" / "engine" / "native" / "columns.h"


def types_text() -> str:
    """Return the list of known architectures for docs/models.md: a family with its types."""
    families: dict[str, list[str]] = {}
    for name, family in architectures():
        families.setdefault(family.rstrip("."), []).append(f"`{name}`")
    lines = [f"- {family}: {', '.join(names)}" for family, names in sorted(families.items())]
    return "\n".join(
        textwrap.fill(line, 104, subsequent_indent="  ", break_on_hyphens=False) for line in lines
    )


def with_types(page: str) -> str:
    """Return the page with its list of architectures as it should be."""
    before, rest = page.split("<!-- types -->")
    after = rest.split("<!-- /types -->")[1]
    return f"{before}<!-- types -->\n{types_text()}\n<!-- /types -->{after}"


def main() -> None:
    """Write all of them anew."""
    COLUMNS_PATH.write_text(header_text(), encoding="utf-8")
    MODELS_PAGE.write_text(with_types(MODELS_PAGE.read_text("utf-8")), encoding="utf-8")
    for name, options in GOLDEN.items():
        record(load_config(None, options), path_of(name), force=True)


if __name__ == "__main__":
    main()
