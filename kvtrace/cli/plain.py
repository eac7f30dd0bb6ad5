"""A console that prints text as it is: text is never markup and never steers the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.segment import Segment

from kvtrace.show.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import ConsoleOptions, RenderableType
    from rich.text import Text


class PlainConsole(Console):
    """A console on which brackets, colons and control characters in strings are printed as text."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as text of one line."""
        return super().render_str(printable(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield segments, each of printable characters."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else _plain(segment)


def _plain(segment: Segment) -> Segment:
    text = segment.text
    if text.isprintable() or text == "\n":
        return segment
    return Segment(printable(text, keep_lines=True), segment.style)
