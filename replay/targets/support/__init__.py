"""Parts that several targets share."""
