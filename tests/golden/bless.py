"""Rewrites what is generated: golden traces, the columns in C, lists in the docs.

`make bless` shows by git what changed.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from kvtrace import plugins
from kvtrace.cli.targets import ShortForms
from kvtrace.models.config_json.families import architectures
from kvtrace.options.described import describe, describe_all
from kvtrace.recording.config import RecordConfig, load_config
from kvtrace.recording.pipeline import record
from replay.ops.columns import header_text
from replay.options import ReplayOptions
from replay.targets.support.declared import options_of, tiers_of
from tests.golden.traces import GOLDEN, path_of
from tests.support import places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from kvtrace.options.described import Described

DOCS = places.ROOT / "docs"
MODELS_PAGE, OPTIONS_PAGE = DOCS / "models.md", DOCS / "options.md"
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


def options_text() -> str:
    """Return docs/options.md: the options of commands and targets, from the fields of models."""
    parts = [
        OPTIONS_HEAD,
        *_tables("kvtrace record", describe_all(RecordConfig), lambda option: f"`{option.path}`"),
        *_tables("kvtrace replay", [*describe(ShortForms), *describe(ReplayOptions)], _replay_key),
        TARGETS_HEAD,
    ]
    for kind in ("cuda", "dir", "file", "memory", "null"):
        module = plugins.load(plugins.TARGET, kind)
        tiers = ", ".join(tier.label for tier in tiers_of(module))
        parts.append(f"### `{kind}`\n\n{plugins.summary(module)} Tiers: {tiers}.")
        rows = [
            (f"`{o.key.replace('_', '-')}={_bar(o.takes)}`", o)
            for o in describe(options_of(module))
        ]
        parts.append(_table("key", [(name, _default(o), o.help) for name, o in rows]))
    return "\n\n".join(parts) + "\n"


OPTIONS_HEAD = """# All options

Made from the program by `make bless`: what `--help` shows, with the keys of `--config` and `--set`.
A switch has a `--no-` form. Options of outputs, and those that are given per tier (`--eviction`),
are in `--help` only."""
TARGETS_HEAD = """## Targets

Keys of `--target TIER=NAME:key=value,...` and of `targets: {TIER: {target: NAME, key: value}}`
([Replay](replay.md#tiers-and-targets)). `kvtrace list targets NAME` prints them too."""


def _tables(
    title: str, options: Iterable[Described], key: Callable[[Described], str]
) -> Iterator[str]:
    """Yield a heading, and a table for each heading of the help."""
    yield f"## {title}"
    panels: dict[str, list[Described]] = {}
    for option in options:
        panels.setdefault(option.panel, []).append(option)
    for panel, members in panels.items():
        yield f"### {panel}" if panel != "Source" else "### Source of requests"
        yield _table(
            "option", [(_written(o), _default(o), key(o), o.help) for o in members], "in files"
        )


def _table(first: str, rows: list[tuple[str, ...]], *more: str) -> str:
    heads = (first, "default", *more, "meaning")
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _written(option: Described) -> str:
    return f"`{option.flag}`" if option.switch else f"`{option.flag} {_bar(option.takes)}`"


def _bar(words: str) -> str:
    return words.replace("|", "\\|")


def _default(option: Described) -> str:
    return "required" if option.required else option.default


def _replay_key(option: Described) -> str:
    return f"`{option.key}`" if option in describe(ReplayOptions) else ""


def main() -> None:
    """Write all of them anew."""
    COLUMNS_PATH.write_text(header_text(), encoding="utf-8")
    MODELS_PAGE.write_text(with_types(MODELS_PAGE.read_text("utf-8")), encoding="utf-8")
    OPTIONS_PAGE.write_text(options_text(), encoding="utf-8")
    for name, options in GOLDEN.items():
        record(load_config(None, options), path_of(name), force=True)


if __name__ == "__main__":
    main()
