"""Parts of a page as HTML text, and the whole of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from kvtrace.show.printable import printable
from replay.report.web.program import drawing_program

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_CONFIG = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {"labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal"},
    "legend": {"orient": "top", "title": None, "labelFontSize": 11, "symbolOpacity": 1},
}
"""How charts look; their colours of text and lines are the page's."""


_HEIGHT_PX = 200
"""Kept free for a chart before it is drawn."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table: what is shown, and by what it is sorted (its text, without a value).

    `kind`: a word by which the page colours it, such as VALID or better.
    """

    text: str
    value: float | None = None
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart as Vega-Lite has it."""

    caption: str
    spec: dict[str, Any]


def text(content: object) -> str:
    """Return `content` as text in HTML."""
    return escape(printable(content, keep_lines=True))


def section(title: str, *parts: str) -> str:
    """Return parts under a heading; nothing if they are all empty."""
    kept = [part for part in parts if part]
    return f"<section><h2>{text(title)}</h2>\n" + "\n".join(kept) + "</section>" if kept else ""


def header(title: str, sentences: Iterable[str], *more: str) -> str:
    """Return the page's title, and beneath it what the page comes to."""
    lines = "".join(f'<p class="headline">{text(line)}</p>' for line in sentences)
    return f"<header><h1>{text(title)}</h1>{lines}{''.join(more)}</header>"


def heading(title: str) -> str:
    """Return a heading within a section."""
    return f"<h3>{text(title)}</h3>"


def note(content: str) -> str:
    """Return a sentence that explains what is beside it."""
    return f'<p class="note">{text(content)}</p>'


def figures(pairs: Iterable[tuple[str, str, str]]) -> str:
    """Return boxes of (name, figure, what else is to be said)."""
    boxes = [
        f"<div><dt>{text(name)}</dt><dd>{text(figure)} <small>{text(more)}</small></dd></div>"
        for name, figure, more in pairs
    ]
    return f'<dl class="figures">{"".join(boxes)}</dl>'


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[Cell | str]],
    *,
    texts: int = 1,
    dense: bool = False,
) -> str:
    """Return a table that its readers can sort; the first `texts` columns are words.

    Without rows there is none. `dense`: with less space about the cells of many columns.
    """
    if not rows:
        return ""
    head = "".join(
        f'<th{_class(at, texts)} scope="col"><button type="button">{text(name)}</button></th>'
        for at, name in enumerate(heads)
    )
    body = "".join(f"<tr>{''.join(_cells(row, texts))}</tr>\n" for row in rows)
    kind = ' class="dense"' if dense else ""
    return (
        f'<div class="scroll" tabindex="0"><table{kind}><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def _class(at: int, texts: int) -> str:
    return "" if at < texts else ' class="number"'


def _cells(row: Sequence[Cell | str], texts: int) -> Iterable[str]:
    for at, item in enumerate(row):
        cell = item if isinstance(item, Cell) else Cell(item)
        value = "" if at < texts else f' data-value="{"" if cell.value is None else cell.value}"'
        shown = text(cell.text)
        if cell.kind:
            shown = f'<span class="{text(cell.kind)}">{shown}</span>'
        yield f"<td{_class(at, texts)}{value}>{shown}</td>"


def pairs(rows: Iterable[tuple[str, object]]) -> str:
    """Return a table of names and what they are."""
    body = "".join(
        f'<tr><th scope="row">{text(name)}</th><td class="text">{text(value)}</td></tr>\n'
        for name, value in rows
    )
    return f'<div class="scroll" tabindex="0"><table><tbody>{body}</tbody></table></div>'


def code(content: str) -> str:
    """Return what can be copied as it is."""
    return f"<pre><code>{text(content)}</code></pre>"


def folded(title: str, content: str) -> str:
    """Return what is shown on request only."""
    return f"<details><summary>{text(title)}</summary>{content}</details>"


def fitted(chart: Any, height: int) -> dict[str, Any]:
    """Return altair's chart as a page embeds it: as wide as its place."""
    spec: dict[str, Any] = chart.properties(width="container", height=height).to_dict()
    return {**spec, "config": _CONFIG, "autosize": {"type": "fit", "contains": "padding"}}


def charts(drawn: Sequence[Chart], first: int) -> str:
    """Return charts side by side; their numbers on the page begin at `first`."""
    if not drawn:
        return ""
    return (
        f'<div class="charts">{"".join(map(_chart, drawn, range(first, first + len(drawn))))}</div>'
    )


def _chart(chart: Chart, number: int) -> str:
    named = {"description": chart.caption, **chart.spec}  # what the drawing is labelled with
    spec = json.dumps(named, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    name, height = text(chart.caption), chart.spec.get("height", _HEIGHT_PX)
    return (
        f"<figure><figcaption>{name}</figcaption>"
        f'<div class="chart" role="img" aria-label="{name}" data-spec="spec-{number}" '
        f'style="min-height: {height}px"></div>'
        f'<script type="application/json" id="spec-{number}">{spec}</script></figure>'
    )


def whole(title: str, body: Iterable[str]) -> str:
    """Return a page that needs nothing but itself; its parts are drawn here, one by one.

    altair checks every part of a chart against its schema as it is made, which is most of a page's
    time; the tests that open pages in a browser check what comes of them.
    """
    from altair.utils.schemapi import debug_mode

    with debug_mode(False):
        content = "\n".join(part for part in body if part)
    style, script = (files(__package__).joinpath(f"page.{kind}").read_text("utf-8")
                     for kind in ("css", "js"))  # fmt: skip
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{text(title)}</title>\n<style>{style}</style></head>\n<body>\n"
        + content
        + f"\n<script>{drawing_program()}</script>\n<script>{script}</script>\n</body></html>\n"
    )
