"""blkparse: text of traces of the block layer."""
