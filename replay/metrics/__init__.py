"""Metrics of a running replay, for Prometheus."""
