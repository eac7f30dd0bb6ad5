"""Whole commands against devices, folders, signals and hostile files."""
