"""A fuzzer over all readers: `make fuzz`, or `python -m tests.fuzz --help`.

Seeds are good files of every kind; each input is one of them, changed by a mutator that knows its
structure, given to a command in a worker process with limits on time and memory.
"""
