"""What several forms of report share."""
