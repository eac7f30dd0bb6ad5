"""Help in two columns: what can be given, with its choices, and what it does."""

from __future__ import annotations

import re
import textwrap
from importlib import import_module
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

from kvtrace import plugins
from kvtrace.show.columns import columns
from kvtrace.show.tables import wrapped as wrap

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

_LEFT, _WIDEST = 27, 100
"""Columns of what can be given; what is longer stands on a line of its own."""
_KINDS = {"int": "N", "integer": "N", "float": "X", "path": "PATH", "file": "FILE"}
_VALUES = {
    "SIZE": ("size", "io-size", "extent-align", "arena", "gpu-mem", "cpu-mem", "nvme-capacity",
             "object-capacity", "fit", "drive"),
    "FLOPS": ("flops",),
    "TIME": ("settle", "warmup", "run-time", "min-window", "duration", "from", "to", "spread",
             "metrics-hold", "dequantise", "hbm-floor"),
    "RATE": ("rate", "decode-rate", "prefill-rate", "drive-bandwidth"),
    "RATIO": ("high-watermark", "low-watermark"),
    "NAME": ("source", "model", "layout", "preset", "dtype", "label", "metrics-run",
             "gpu", "precision", "formula", "export"),
    "CODE": ("accept",),
    "TIERS": ("tiers",),
    "PATH": ("device", "filename"),
    "KEY=VALUE": ("set",),
    "[ADDRESS:]PORT": ("metrics-port",),
    "ID": ("allow-destroy",),
    "TYPE": ("allow-signature",),
    "TIER": ("tier",),
    "FIRST:END": ("rows",),
    "N|SHARE": ("sessions",),
    "NAMES": ("policies",),
    "VERSION": ("fio-version",),
    "MAJOR,MINOR": ("device-filter",),
}  # fmt: skip
_VALUE_OF = {f"--{name}": word for word, names in _VALUES.items() for name in names}
"""What options of text take; sizes, times and rates are given with their unit."""
AS_RECORD = "As in `kvtrace record`."
"""Stands for the help of the option of `kvtrace record` with the same name."""
Rows = list[tuple[str, str]]


class HelpfulCommand(TyperCommand):
    """A command whose help fits any width: nothing is cut, choices are shown."""

    def get_usage(self, ctx: Any) -> str:
        """Return the line of usage, with arguments as the help has them."""
        return "\n".join(_usage(self, ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help to `formatter`."""
        formatter.write("\n".join(_lines(self, ctx)) + "\n")


def width() -> int:
    """Return how wide help is."""
    return min(columns(), _WIDEST)


def _lines(command: Any, ctx: Any) -> Iterator[str]:
    yield from _usage(command, ctx)
    for paragraph in (command.help or "").split("\n\n"):
        yield ""
        yield from wrap(paragraph, width(), "  ")
    yield from section(
        "Arguments", [(_argument(each), _text(each, ctx)) for each in _arguments(command)]
    )
    for title, rows in _panels(command, ctx).items():
        yield from section(title, rows)


def _arguments(command: Any) -> list[Any]:
    return [each for each in command.params if not each.opts[0].startswith("-")]


def _usage(command: Any, ctx: Any) -> list[str]:
    words = [ctx.command_path, "[OPTIONS]", *map(_argument, _arguments(command))]
    return textwrap.wrap(f"Usage: {' '.join(words)}", width(), subsequent_indent=" " * 7)


def overview(group: Any, ctx: Any, summaries: Mapping[str, str]) -> Iterator[str]:
    """Yield the help of all commands, which have these summaries: a line or two for each."""
    yield f"Usage: {ctx.command_path} [OPTIONS] COMMAND [ARGS]..."
    yield ""
    yield f"  {group.help}"
    for title, rows in _panels(group, ctx).items():
        yield from section(title, rows)
    yield from section("Commands", summaries.items())


def _panels(command: Any, ctx: Any) -> dict[str, Rows]:
    panels: dict[str, Rows] = {}
    for each in command.get_params(ctx):
        if each.opts[0].startswith("-") and not getattr(each, "hidden", False):
            title = getattr(each, "rich_help_panel", None) or "Options"
            panels.setdefault(title, []).append((_option(each, ctx), _text(each, ctx)))
    return panels


def section(title: str, rows: Collection[tuple[str, str]]) -> Iterator[str]:
    """Yield a heading and two columns; nothing without rows."""
    if not rows:
        return
    yield ""
    yield title
    for left, text in rows:
        wrapped = wrap(text, width() - _LEFT) or [""]
        head = f"  {left}"
        if len(head) + 2 > _LEFT:
            yield from _head(head)
        else:
            yield f"{head:{_LEFT}}{wrapped.pop(0)}".rstrip()
        yield from (f"{'':{_LEFT}}{line}" for line in wrapped)


def _head(head: str) -> Iterator[str]:
    """Yield what can be given on lines of its own, broken between words and choices only."""
    line = ""
    for part in re.findall(r"[^ |]*[ |]*", head.lstrip()):
        if len(line) + len(part.rstrip()) + 2 > width():
            yield f"  {line}".rstrip()
            line = "  "
        line += part
    yield f"  {line}".rstrip()


def _argument(param: Any) -> str:
    name = param.metavar or param.name.upper().rstrip("_")
    name = name if param.nargs == 1 else f"{name}..."
    return name if param.required else f"[{name}]"


def _kind(param: Any, ctx: Any) -> str:
    """Return what an option takes, in one word; releases of typer call it differently."""
    shown = param.get_help_record(ctx)[0].removeprefix(param.opts[0])
    known = re.findall(r"[a-z]+", shown.lower())
    word = next((_KINDS[word] for word in known if word in _KINDS), "TEXT")
    return _VALUE_OF.get(param.opts[0], word) if word == "TEXT" else word


def _option(param: Any, ctx: Any) -> str:
    names = ", ".join(sorted(param.opts, key=len))
    if param.secondary_opts:
        names += f" / {param.secondary_opts[0]}"
    if getattr(param, "is_flag", False):
        return names
    like = _of_record(param.opts[0]) if ctx.info_name == "whatif" else None
    known = getattr(like, "metavar", None) or "|".join(choices(ctx.info_name, param))
    value = param.metavar or known or _kind(param, ctx)
    return f"{names} {value}"


def _text(param: Any, ctx: Any) -> str:
    if param.help == AS_RECORD:
        param = _of_record(param.opts[0])
    text, notes = param.help or "", []
    if param.multiple and "may be repeated" not in text:
        notes.append("may be repeated")
    shown = getattr(param, "show_default", False)
    default = shown if isinstance(shown, str) else param.get_default(ctx, call=False)
    if shown and not (default is None or default is False or default in ((), [], "")):
        notes.append(f"default: {default}")
    least = getattr(getattr(param, "type", param), "min", None)
    if least is not None:
        notes.append(f"at least {least}")
    if param.required and param.opts[0].startswith("-"):
        notes.append("required")
    return f"{text} [{', '.join(notes)}]" if notes else text


def _of_record(option: str) -> Any:
    """Return an option of `kvtrace record`; None if it has no such one."""
    params = import_module("kvtrace.cli.main").command("record").params
    return next((each for each in params if option in each.opts), None)


def choices(command: str, param: Any) -> list[str]:
    """Return the words that an option takes, from where they are accepted; [] if it takes any."""
    name = param.name.rstrip("_")
    kinds = {
        ("import", "format"): plugins.IMPORTER,
        ("export", "to"): plugins.EXPORTER,
        ("record", "eviction"): plugins.POLICY,
        ("whatif", "eviction"): plugins.POLICY,
    }
    if (command, name) in kinds:
        return plugins.names(kinds[command, name])
    return []
