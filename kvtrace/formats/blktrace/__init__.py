"""blktrace: binary traces of the block layer."""
