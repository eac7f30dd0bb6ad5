"""What other tiers would do with the same requests: hit ratios and bytes without any I/O."""
