"""Where objects live on a device or file: what a trace's rows need, and an extent for each object.

`replay` and the exporters that turn keys into offsets share it, so that both do the same I/O.
"""
