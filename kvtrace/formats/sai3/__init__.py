"""sai3-bench: operation logs."""
