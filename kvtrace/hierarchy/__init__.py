"""The tier hierarchy in virtual time."""
