"""Request files: what the sources that read them have in common."""
