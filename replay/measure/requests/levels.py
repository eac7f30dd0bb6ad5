"""Service levels per QoS class: 95 of 100 requests within a target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvtrace.trace.schema import Qos
from kvtrace.units import MS_NS

if TYPE_CHECKING:
    from collections.abc import Mapping

TARGET_P95_NS: Mapping[Qos, int] = {
    Qos.INTERACTIVE: 50 * MS_NS,
    Qos.RESPONSIVE: 100 * MS_NS,
    Qos.BATCH: 1_000 * MS_NS,
}
"""Source: the default QoS profiles of the MLPerf Storage KV cache benchmark, v3.0 (2026)."""
MET_RATIO = 0.95
"""The share of a class's requests that must be within its target."""
