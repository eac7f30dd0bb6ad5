r"""Measure what the model classes of `transformers` keep in their caches.

The measurement does not read kvtrace: it builds each class on the meta device (shapes, no data),
runs two forward passes of different length with `use_cache=True`, and reads the shapes of the
caches they return.

Run it by hand, from the root of the repository. It needs torch (the CPU build is enough) and
transformers, which kvtrace does not:

    python -m venv oracle
    oracle/bin/pip install torch==2.13.0 transformers==5.24.0
    oracle/bin/python -m tests.oracles.transformers_caches \
        tests/kvtrace/data/transformers_caches.csv

It measures the types that the table lacks, so that an interrupted run continues. To measure a
type again, name it with `--type` (repeatable); for a new release, delete the table first. All
types take 30 minutes on two cores and at most 8 GiB of memory.

The table holds class defaults in bfloat16. Its columns are described in `rows.py`; in `groups`,
T stands for the tokens of the context and `T/4` for one entry per four of them. A latent (mla)
layer keeps the latent as keys and the rope part as values.
"""
