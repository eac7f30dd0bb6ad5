"""Measures of finished ops, while a run goes on."""
