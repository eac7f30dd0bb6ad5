"""Placement of objects on a device or file: the space that rows need, and each object's extent.

`replay` and the exporters that turn keys into offsets share it, so that both do the same I/O.
"""
