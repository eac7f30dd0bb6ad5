"""Provenance of a trace, from its header, as rows of a table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from kvtrace.units import format_bytes, format_count

Pairs = list[tuple[str, str]]


def provenance(info: dict[str, Any]) -> Pairs:
    """Return names and texts of what the header says; nothing of what it doesn't.

    `info`: what `stats.summarise` returns.
    """
    rows = [*_origin(info), *_node(info["header"]), *_contents(info)]
    return [(name, text) for name, text in rows if text]


def objects_each(layout: dict[str, Any]) -> str:
    """Return how many objects a block of this layout has, in words."""
    count = layout.get("objects_per_block", "?")
    return "1 object each" if count == 1 else f"{count} objects each"


def captured(header: dict[str, Any]) -> str:
    """Return the engine that was recorded, and what of its work isn't in the trace."""
    capture = header["capture"]
    lost = {
        "rows dropped": header["dropped_rows"],
        "gaps": len(capture["gaps"]),
        "damaged places": len(capture["torn"]),
        "processes without an end": capture["unfinished_processes"],
        "bus events dropped": capture["bus_events_dropped"],
    }
    parts = [f"{count:,} {what}" for what, count in lost.items() if count]
    engine = f"{capture['engine']} {capture['engine_version']}".strip()
    processes = f"{capture['processes']:,} process{'es' * (capture['processes'] != 1)}"
    return f"{engine}, {processes}; {', '.join(parts) or 'nothing lost'}"


def _origin(info: dict[str, Any]) -> Iterator[tuple[str, str]]:
    header = info["header"]
    producer, source = header["producer"], header["source"] or {}
    yield "written by", f"{producer['name']} {producer['version']}".strip()
    yield "format", str(header["format_version"])
    yield "source", source.get("name", "")
    yield "capture", captured(header) if header.get("capture") else ""
    yield "inputs (sha256)", ", ".join(source.get("sha256") or [])
    yield "invented", "; ".join(source.get("invented") or [])
    yield "made of other traces by", ", ".join(str(step.get("tool")) for step in header["history"])
    yield "anonymised", "yes" if header["anonymised"] else ""
    yield "seed", "" if header["seed"] is None else str(header["seed"])
    epoch = header["epoch_ns"]
    yield "clock at 0 s", "" if epoch is None else f"{epoch:,} ns"
    yield "dropped rows", f"{header['dropped_rows']:,}" if header["dropped_rows"] else ""


def _node(header: dict[str, Any]) -> Iterator[tuple[str, str]]:
    model, layout = header["model"] or {}, header["layout"] or {}
    if model:
        per_token = f"{model.get('bytes_per_token', 0):,} B per token"
        yield "model", f"{model.get('name', '?')}, {model.get('dtype', '?')}, {per_token}"
    if layout:
        block = layout.get("block_tokens")
        yield (
            "layout",
            f"{layout.get('name', '?')}, blocks of {block or 'a turn’s'} tokens, "
            f"{objects_each(layout)}",
        )
    yield "tensor parallel", str(header["tensor_parallel"] or "")
    yield "GPUs", str(header["num_gpus"] or "")
    yield "ranks in the rows", str(header["ranks"] or "")
    yield "nodes", str(header["nodes"]) if header["nodes"] > 1 else ""
    yield "write policy", str(header["write_policy"] or "")
    for tier in header["tiers"]:
        capacity = tier["capacity_bytes"]
        size = "unlimited" if capacity is None else format_bytes(capacity)
        marks = f"{tier['low_watermark_ratio']:.0%} to {tier['high_watermark_ratio']:.0%}"
        yield f"tier {tier['name']}", f"{size}, {tier['eviction']}, watermarks {marks}"


def _contents(info: dict[str, Any]) -> Iterator[tuple[str, str]]:
    resident = info["header"]["resident"]
    if sum(resident["objects"].values()):
        how = "derived from reads before writes" if resident["derived"] else "declared"
        each = ", ".join(
            f"{name} {format_count(count)} ({format_bytes(resident['bytes'].get(name, 0))})"
            for name, count in resident["objects"].items()
        )
        yield "objects at the start", f"{each}; {how}"
    yield "file", str(info["path"])
    yield "sha256", str(info["sha256"])
    yield "content sha256", str(info["content_sha256"] or "")


def details(info: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (title, JSON) of what is too long for a row; nothing of what is empty."""
    header = info["header"]
    parts = (
        ("Configuration", header["config"]),
        ("Parameters of the source", (header["source"] or {}).get("parameters")),
        ("Recording", header.get("capture")),
        ("History", header["history"]),
        ("Statistics of the simulation", header["statistics"]),
    )
    return [(title, json.dumps(part, indent=2)) for title, part in parts if part]
