"""fio: latency logs."""
