"""Code compiled by numba that everything may use."""
