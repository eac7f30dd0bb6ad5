"""What finished ops amount to, while a run goes on."""
