"""`kvtrace model`: what a model keeps, group by group, and what it was read from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvtrace.cli.console import figures, plain_console
from kvtrace.models import load_model
from kvtrace.models.layers import WindowAttention
from kvtrace.models.summary import GroupSummary, groups, totals

if TYPE_CHECKING:
    from kvtrace.models import Model
    from kvtrace.models.compute import Compute


def model_command(
    model: Annotated[
        str, typer.Argument(help="Name, TOML file or config.json; see `kvtrace list models`.")
    ],
    tensor_parallel: Annotated[
        int,
        typer.Option(
            "--tensor-parallel", "--tp", min=1, help="Number of ranks that share the model."
        ),
    ] = 1,
    dtype: Annotated[
        str | None, typer.Option(help="Data type of the KV cache.", show_default="the model's")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a model's KV bytes per token and per sequence, by group of layers."""
    loaded = load_model(model)
    notes = loaded.notes_on(tensor_parallel, dtype)
    rows = groups(loaded, tensor_parallel, dtype)
    sums = totals(rows)
    if as_json:
        document = {
            "name": loaded.name,
            "dtype": dtype or loaded.dtype,
            "tensor_parallel": tensor_parallel,
            "groups": [row._asdict() for row in rows],
            **sums,
            "source": loaded.source,
            "compute": None if loaded.compute is None else loaded.compute.model_dump(),
            "notes": notes,
        }
        typer.echo(json.dumps(document, indent=2))
        return
    _show(loaded, rows, sums, dtype or loaded.dtype, tensor_parallel, notes)


def _show(
    model: Model,
    rows: list[GroupSummary],
    sums: dict[str, Any],
    dtype: str,
    ranks: int,
    notes: list[str],
) -> None:
    console = plain_console()
    names = ("layers", "kind", "heads", "width", "window", "B/token", "B/sequence", "stored")
    title = f"{model.name}, {dtype}, TP {ranks}"
    table = figures(names, left=["kind", "stored"], title=title)
    for row in rows:
        table.add_row(
            f"{row.layers:,}",
            row.kind,
            _cell(row.heads),
            row.width or "-",
            _cell(row.window),
            _bytes(row.rank_bytes_per_token),
            _bytes(row.rank_bytes_per_sequence),
            row.stored,
        )
    console.print(table)
    for place, words in (("rank", "one rank"), ("node", f"a node of {ranks}, stored")):
        console.print(
            f"{words}: {_bytes(sums[f'{place}_bytes_per_token'])} B per token, "
            f"{_bytes(sums[f'{place}_bytes_per_sequence'])} B per sequence"
        )
    if rows[0].origin:
        console.print(f"read from: {rows[0].origin}")
    console.print(f"source: {model.source}")
    if model.compute is not None:
        console.print(_compute(model.compute))
    if any(isinstance(group, WindowAttention) for group in model.attention):
        console.print("B/sequence counts full windows; shorter sequences keep less")
    for note in notes:
        console.print(f"note: {note}")


def _compute(compute: Compute) -> str:
    """Return what a token is multiplied by, with its source."""
    widths = f"{compute.head_dim}"
    if compute.v_head_dim != compute.head_dim:
        widths += f" and {compute.v_head_dim}"
    return (
        f"a token is multiplied by {compute.active_parameters / 1e9:,.2f} G parameters; "
        f"{compute.query_heads} heads of {widths} ({compute.source})"
    )


def _cell(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _bytes(value: float) -> str:
    return f"{value:,}" if value == int(value) else f"{value:,.2f}"
