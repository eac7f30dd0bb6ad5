"""Measurements of other programs, kept as files that tests compare with; run by hand."""
