"""Options under the headings of a command's help, and texts that several commands have."""

from __future__ import annotations

from typing import Any

import typer

FLOPS_HELP = "Peak FLOP/s of one GPU, e.g. 989T, in place of --gpu."
MFU_HELP = "Share of the peak that a prefill reaches. [default: 0.5]"


def option(help_text: str, panel: str, *names: str, default: object = "", **more: Any) -> Any:
    """Return an option under the heading `panel`; `default`: what the help shows as such."""
    shown = str(default) or False
    return typer.Option(*names, help=help_text, rich_help_panel=panel, show_default=shown, **more)
