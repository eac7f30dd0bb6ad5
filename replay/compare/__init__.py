"""Several results side by side: trials of one thing, and comparisons of different ones."""
