"""Decides whether a device or file may be written. Everything here only reads.

`storage` finds which devices share the same bytes, `users` who uses them, `signatures` what is on
a device, `identity` whether it still is what was checked.
"""
