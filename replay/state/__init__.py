"""The state of targets before and after a run."""
