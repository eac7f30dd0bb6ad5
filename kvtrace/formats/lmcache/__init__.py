"""LMCache: .lct recordings of its storage manager."""
