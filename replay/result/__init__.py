"""A result: its figures, its verdict, its document."""
