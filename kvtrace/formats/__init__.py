"""Formats of other tools, one folder each: reading and writing side by side."""
