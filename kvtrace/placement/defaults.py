"""Defaults of placement and of a replay's I/O; help reads them, so that nothing heavy is here."""

from __future__ import annotations

SLACK_RATIO = 0.05
"""More space than the live set needs."""
PART_BYTES = 4 << 20
"""Longest single I/O of a replay."""
DEPTH_MAX, DEPTH_OPEN = 32, 1024
"""I/Os in flight at most, per tier: at full speed, by a schedule."""
