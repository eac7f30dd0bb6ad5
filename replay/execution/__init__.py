"""One replay from start to end."""
