"""Parts that several forms of report share."""
