"""The `kvtrace` command: the only place that prints or exits. One file per group of commands."""
