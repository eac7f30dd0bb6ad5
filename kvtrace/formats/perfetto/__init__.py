"""Perfetto: timelines."""
