"""A result under the names, and by the definitions, of the MLPerf Storage KV cache benchmark.

Source of names and definitions: its program as of v3.0 (2026). Where a definition misleads, our
figure stands beside it (`beside`). What a run of ours doesn't measure is left out and listed.
"""
