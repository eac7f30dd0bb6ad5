"""Parts of eviction policies: linked lists, sizes of blocks."""
