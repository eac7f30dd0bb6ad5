"""fio: logs of I/O, and jobs that run them."""
