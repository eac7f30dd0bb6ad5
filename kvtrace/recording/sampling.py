"""Counts of a source's sessions before sampling or copying, for comparison with the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvtrace.hierarchy.spec import endless
from kvtrace.recording.parts import Recording
from kvtrace.recording.simulation import Simulation

if TYPE_CHECKING:
    from kvtrace.hierarchy.events import HierarchyStats
    from kvtrace.recording.config import RecordConfig

BY_SESSION, BY_FAMILY = "sessions", "prefix families"


def sampled(config: RecordConfig, stats: HierarchyStats) -> dict[str, Any] | None:
    """Return what `--scale-sessions` made of the requests, for the statistics; None without it.

    The requests before it are gone through once more, on a tier that forgets nothing.
    """
    scale = config.source.scale_sessions
    if scale == 1:
        return None
    source = config.source.model_copy(update={"scale_sessions": 1.0})
    whole = config.model_copy(
        update={"source": source, "nodes": 1, "requests": None, "warmup": None, "restart_at": None}
    )
    recording = Recording(whole)
    recording.spec = endless(recording.spec)
    simulation = Simulation(recording)
    for _ in simulation.events():
        pass
    before = simulation.stats()
    ties = bool(recording.source.known & {"session"}) or recording.source.block_tokens is None
    return {
        "scale_sessions": scale,
        "by": BY_SESSION if ties else BY_FAMILY,
        "requests": stats.requests,
        "requests_before": before.requests,
        "ideal_prefix_hit": stats.ideal_hits / max(1, stats.blocks),
        "ideal_prefix_hit_before": before.ideal_hits / max(1, before.blocks),
    }
