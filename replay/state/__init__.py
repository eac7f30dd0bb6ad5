"""What is on a target before and after a run."""
