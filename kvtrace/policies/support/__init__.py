"""What eviction policies are made of."""
