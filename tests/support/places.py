"""Where the project's files and the samples lie."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT.parent / "shared" / "samples"
"""Real inputs with their right answers; tests that need them are skipped without them."""
FAULTS = ROOT / "tests" / "faults"
"""A small input for each fault that was mended, named after it."""
