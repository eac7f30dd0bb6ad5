"""Tools that make traces of traces, or compare them: one file each, all streaming by batches."""
