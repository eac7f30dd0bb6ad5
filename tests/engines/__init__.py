"""Tests with real engines, each in an environment of its own that `make engines` makes."""
