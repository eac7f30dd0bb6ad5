"""From the words of a replay's command line to its targets and options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvtrace.arguments import invalid
from kvtrace.cli.parsing import parse_tiers, parsed
from kvtrace.cli.targets import target_specs
from kvtrace.errors import UsageError, unknown_name
from kvtrace.units import parse_bytes, parse_duration_ns
from replay import ReplayOptions, TargetSpec
from replay.ops.contract import Fsync
from replay.result.invalid import CODES

if TYPE_CHECKING:
    from collections.abc import Mapping


def understood(asked: Mapping[str, Any]) -> tuple[tuple[TargetSpec, ...], ReplayOptions]:
    """Return the targets and options that a replay's parameters ask for. Raises UsageError."""
    specs = target_specs(
        device=asked["device"],
        size=parsed("--size", parse_bytes, asked["size"]),
        target=asked["target"] or (),
        cpu=asked["cpu"],
        gpu=asked["gpu"],
        folder=asked["folder"],
        fsync=asked["fsync"],
        trim=asked["trim"],
        extent_align=parsed("--extent-align", parse_bytes, asked["extent_align"]),
        allow_destroy=asked["allow_destroy"],
        allow_signature=tuple(asked["allow_signature"] or ()),
    )
    limit_rows, limit_ns = _limit(asked["limit"])
    options = _options(
        mode=asked["mode"],
        speed=asked["speed"],
        sync_stores=asked["sync_stores"],
        threads=asked["threads"],
        priority=asked["priority"],
        warmup_ns=parsed("--warmup", parse_duration_ns, asked["warmup"]),
        run_time_ns=parsed("--run-time", parse_duration_ns, asked["run_time"]),
        loop=asked["loop"],
        payload=asked["payload"],
        dedup_ratio=asked["dedup_ratio"],
        compress_ratio=asked["compress_ratio"],
        reuse_populated=asked["reuse_populated"],
        trim=any(spec.trim for spec in specs),
        fsync=max((spec.fsync for spec in specs), default=Fsync.NONE).name.lower(),
        queue_depth=asked["queue_depth"],
        io_size_bytes=parsed("--io-size", parse_bytes, asked["io_size"]),
        slack_ratio=asked["slack"],
        engine=asked["engine"],
        spin=asked["spin"],
        arena_bytes=parsed("--arena", parse_bytes, asked["arena"]),
        run_id=asked["run_id"],
        tiers=parse_tiers(asked["tiers"]),
        populate=asked["populate"],
        settle_ns=parsed("--settle", parse_duration_ns, asked["settle"]),
        verify=asked["verify"],
        bpf=asked["bpf"],
        min_window_ns=parsed("--min-window", parse_duration_ns, asked["min_window"]),
        limit_rows=limit_rows,
        limit_ns=limit_ns,
        with_failed=asked["with_failed"],
        accept=_accepted(asked["accept"] or []),
    )
    return specs, options


def _limit(text: str | None) -> tuple[int | None, int | None]:
    """Return (rows, time): a bare number is rows."""
    if text is None:
        return None, None
    if text.replace("_", "").isdigit():
        return int(text), None
    return None, parsed("--limit", parse_duration_ns, text)


def _accepted(codes: list[str]) -> tuple[str, ...]:
    for code in codes:
        if code not in CODES:
            raise unknown_name("reason", code, CODES, where="--accept")
    return tuple(codes)


def _options(**fields: Any) -> ReplayOptions:
    """Return the options of a run; a wrong one is a UsageError that names its flag."""
    try:
        return ReplayOptions(**fields)
    except UsageError as error:
        if (cause := invalid(error)) is None:
            raise
        first = cause.errors()[0]
        if not first["loc"]:  # several options together
            raise UsageError(first["msg"].removeprefix("Value error, ")) from error
        name = str(first["loc"][0])
        for unit in ("_bytes", "_ns", "_ratio", "_rows"):
            name = name.removesuffix(unit)
        raise UsageError(
            first["msg"], where=f"--{name.replace('_', '-')}", got=repr(first["input"])
        ) from error
