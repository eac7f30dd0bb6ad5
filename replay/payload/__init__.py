"""Unique bytes for writes, and the stamps that prove a read."""
