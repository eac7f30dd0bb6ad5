"""Mooncake: request traces."""
