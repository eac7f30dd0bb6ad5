"""Recordings of live engines (`.kvcap`)."""
