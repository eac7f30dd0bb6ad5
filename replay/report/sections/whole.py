"""Sections of a whole result, in the order of a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvtrace.units import format_bytes, format_count, format_duration_ns
from replay.report.sections import lanes, requests
from replay.report.sections.parts import (
    FACTS,
    Column,
    Figure,
    Kind,
    Row,
    Section,
    Time,
    facts,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from replay.host.document import BlockLatencyDocument, HostSeriesDocument
    from replay.host.environment import TargetEnvironment
    from replay.measure.figures import LaneDocument
    from replay.result.document import ResultDocument

BLOCK_ROWS = 12
"""Kinds of requests of the block layer that aren't detail: the most frequent."""


def sections(document: ResultDocument) -> Iterator[Section]:
    """Yield all sections, top to bottom; each after the one that it is a part of."""
    yield facts("Run", RUN, document)
    for lane in document.lanes:
        yield from lanes.sections(lane, document)
    yield lanes.latencies(document)
    yield from requests.requests(document.requests)
    yield from requests.health(document.storage_health)
    yield facts("Fidelity", FIDELITY, document)
    yield _phases(document)
    for lane in document.lanes:
        yield from _device(lane)
    yield facts("Machine", MACHINE, document)
    yield from block_layer(document.bpf)
    yield facts("Tool and payload", TOOL, document)
    yield _environment(document)


def _replayed(document: ResultDocument) -> str:
    trace = document.trace
    if trace.rounds != 1:
        return f"{trace.rounds:,.2f} rounds of {format_count(trace.rows)} rows"
    return f"{format_count(trace.rows_replayed)} of {format_count(trace.rows)} rows"


def _skipped(document: ResultDocument) -> str | None:
    parts = [
        f"tier {part.tier}: {format_count(part.ops)} ops, {format_bytes(part.bytes)}"
        for part in document.not_executed
    ]
    return "; ".join(parts) or None


def _populated(document: ResultDocument) -> str | None:
    populated = document.populate
    if populated is None or not populated.objects:
        return None
    return (
        f"{format_count(populated.objects)} objects, {format_bytes(populated.bytes)} "
        f"in {populated.seconds:.1f} s, settled {populated.settled_s:.1f} s"
    )


def _tokens(document: ResultDocument) -> str:
    """Return both figures in tokens, why they differ, and which to use."""
    theirs = document.storage_throughput_tokens_per_sec
    if document.kv_tokens_per_s is None:
        return "unknown: the trace names no model"
    if theirs is None:
        return "see each tier's KV tokens"
    return (
        f"storage_throughput_tokens_per_sec {format_count(theirs)}: generated tokens ÷ summed I/O "
        "time, which depends on hit rate and overlap; compare devices by KV tokens"
    )


RUN: tuple[Figure, ...] = (
    Figure("trace", "trace", of=lambda result: f"{result.trace.path}, {_replayed(result)}"),
    Figure(
        "executed",
        "ops",
        of=lambda result: f"{format_count(result.ops)} ops, {format_bytes(result.bytes)} moved",
    ),
    Figure("not executed", "not_executed", of=_skipped),
    Figure("populated", "populate", of=_populated),
    Figure("tokens", "storage_throughput_tokens_per_sec", of=_tokens),
)
"""What was done, in one row each."""


def _off_schedule(document: ResultDocument) -> str | None:
    error = document.fidelity.submit_error_ns
    return None if error is None else shown(Time(error.p99, "p99" in error.few_samples), Kind.NS)


def _distance(document: ResultDocument) -> str | None:
    distance = document.fidelity.interarrival_distance_ns
    return None if distance is None else format_duration_ns(round(distance))


def _in_flight(value: float | None) -> str | None:
    return None if value is None else f"{value:.1f}"


def _stretch(document: ResultDocument) -> str | None:
    ratio = document.fidelity.stretch_ratio
    return None if ratio is None else f"{ratio:.4f}"


FIDELITY: tuple[Figure, ...] = (
    Figure("off schedule, P99", "fidelity", of=_off_schedule),
    Figure("gaps differ by", "fidelity", of=_distance),
    Figure("stretch", "fidelity", of=_stretch),
    Figure(
        "planned in flight",
        "fidelity",
        of=lambda result: _in_flight(result.fidelity.in_flight_planned_max),
    ),
    Figure(
        "ops in flight",
        "fidelity",
        of=lambda result: (
            f"{_in_flight(result.fidelity.in_flight_actual_max)} in the fullest slice of time"
        ),
    ),
    Figure(
        "order violations", "fidelity", Kind.COUNT, lambda result: result.fidelity.order_violations
    ),
)
"""How faithful the run was to its trace, one row each."""


def _phases(document: ResultDocument) -> Section:
    columns = (
        Column("phase"),
        Column("ops done", Kind.COUNT),
        Column("in the trace", Kind.COUNT),
        Column("bytes done", Kind.BYTES),
        Column("in the trace", Kind.BYTES),
    )
    rows = tuple(
        Row((each.phase, each.executed_ops, each.trace_ops, each.executed_bytes, each.trace_bytes))
        for each in document.fidelity.phases
    )
    return Section("Phases", columns, rows, under="Fidelity", detail=True)


def _plain(value: object) -> str:
    """Return a counter as people read it."""
    if isinstance(value, float):
        return f"{value:.3f}"
    return "unknown" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def device_title(lane: LaneDocument) -> str:
    """Return the title of a device's section."""
    return f"Device of tier {lane.tier}"


def _device(lane: LaneDocument) -> Iterator[Section]:
    """Yield what is known of a tier's device; it is detail."""
    rows: list[tuple[str, str]] = []
    if lane.device is not None:
        rows += [(name.replace("_", " "), _plain(value)) for name, value in lane.device]
    state = lane.device_state
    if state is not None:
        node = "unknown" if state.numa_node is None else state.numa_node
        rows += [("model", str(state.model)), ("firmware", state.firmware or "unknown")]
        rows.append(("NUMA node", str(node)))
    if lane.device_change is not None:
        rows += [(name.replace("_", " "), _plain(value)) for name, value in lane.device_change]
    if lane.device is not None or lane.preconditioned is not None:
        done = lane.preconditioned
        rows.append(("preconditioned", "unknown" if done is None else f"{done.passes} passes"))
    yield Section(device_title(lane), FACTS, tuple(map(Row, rows)), detail=True)


def _cpus(host: HostSeriesDocument | None) -> str | None:
    """Return how busy the CPUs were, and whose."""
    if host is None or not sum(host.width_s):
        return None
    seconds = sum(host.width_s)
    own, busy = sum(host.process_s) / seconds, sum(host.busy_s) / seconds
    steal = sum(host.steal_s) / seconds / host.cpus
    stolen = f", {steal:.1%} stolen" if steal >= 0.001 else ""
    nodes = ", ".join(map(str, host.nodes_used))
    where = f"; threads seen on NUMA node {nodes}" if nodes else ""
    return f"{busy:.2f} of {host.cpus} CPUs busy, {own:.2f} by this process{stolen}{where}"


MACHINE: tuple[Figure, ...] = (
    Figure("CPUs", "host_series", of=lambda result: _cpus(result.host_series)),
)
"""What the machine did during the run, one row each."""


def block_layer(latency: BlockLatencyDocument | None) -> Iterator[Section]:
    """Yield the block layer's latencies; kinds of requests that are rare are detail."""
    if latency is None:
        return
    columns = (
        Column("request"),
        Column("from", Kind.BYTES),
        *(Column(name, Kind.US) for name in ("mean", "P50", "P99", "max")),
        Column("count", Kind.COUNT),
    )
    often = sorted(latency.groups, key=lambda group: -group.count)[:BLOCK_ROWS]
    groups = sorted(latency.groups, key=lambda each: (each.device, each.op, each.size_class_bytes))
    rows = tuple(
        Row(
            (
                f"{each.device} {each.op}", each.size_class_bytes, each.mean_us, each.p50_us,
                each.p99_us, each.max_us, each.count,
            ),
            detail=each not in often,
        )
        for each in groups
    )  # fmt: skip
    hidden = len(groups) - len(often)
    more = f"; {hidden} rarer kinds are in --report FILE.html" if hidden else ""
    yield Section("Block layer", columns, rows, (f"{latency.note}{more}",), under="Machine")


def _engine(document: ResultDocument) -> str | None:
    tool = document.tool
    if tool is None:
        return None
    return f"{tool.engine} ({tool.engine_note})" if tool.engine_note else tool.engine


def _cpu(document: ResultDocument) -> str | None:
    tool = document.tool
    if tool is None:
        return None
    per_gb = "" if tool.cpu_s_per_gb is None else f", {tool.cpu_s_per_gb:.3f} s per GB"
    return f"{tool.cpu_s:.2f} s{per_gb}"


def _payload(document: ResultDocument) -> str | None:
    payload = document.payload
    if payload is None:
        return None
    return (
        f"{payload.kind}, {format_bytes(payload.arena_bytes)} of unique bytes on "
        f"{payload.page_kind} pages, run id {payload.run_id}"
    )


def _verified(document: ResultDocument) -> str | None:
    payload = document.payload
    if payload is None:
        return None
    wrong = format_count(payload.mismatched_ops)
    return f"{format_count(payload.verified_ops)} reads, {wrong} wrong: {payload.coverage}"


TOOL: tuple[Figure, ...] = (
    Figure("engine", "tool", of=_engine),
    Figure("CPU", "tool", of=_cpu),
    Figure("loop threads", "tool", Kind.COUNT, lambda result: result.tool and result.tool.threads),
    Figure("priority", "tool", of=lambda result: result.tool and result.tool.priority),
    Figure(
        "memory, at most",
        "tool",
        Kind.BYTES,
        lambda result: result.tool and result.tool.memory_bytes_max,
    ),
    Figure(
        "planner stalls", "tool", Kind.COUNT, lambda result: result.tool and result.tool.plan_stalls
    ),
    Figure("payload", "payload", of=_payload),
    Figure("verified", "payload", of=_verified),
)
"""What the tool took, wrote and verified, one row each."""


def _target(target: TargetEnvironment) -> str:
    queue = ", ".join(f"{name} {value}" for name, value in target.queue.items())
    parts = (target.model, target.file_system, target.mount_options, queue)
    return "; ".join(part for part in parts if part) or "nothing to be said"


def _environment(document: ResultDocument) -> Section:
    """Return the machine that the run was on; it is detail."""
    environment = document.environment
    if environment is None:
        rows = [("unknown", "the ops were done by another tool, or elsewhere")]
    else:
        versions = (f"{name} {version}" for name, version in environment.versions.items())
        huge = environment.transparent_huge_pages
        rows = [
            ("kernel", f"{environment.kernel} {environment.machine}"),
            ("CPUs", f"{environment.cpus} × {environment.cpu_model or 'unknown'}"),
            ("governor", environment.governor or "unknown"),
            ("memory", format_bytes(environment.memory_bytes)),
            ("huge pages", f"{environment.huge_pages_reserved} reserved; {huge}"),
            ("Python", environment.python),
            ("versions", ", ".join(versions)),
            *((target.title, _target(target)) for target in environment.targets),
        ]
    return Section("Environment", FACTS, tuple(map(Row, rows)), detail=True)
