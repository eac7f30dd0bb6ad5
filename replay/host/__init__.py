"""The machine below a run: what it is, what spoils a run on it, what it did while one went on."""
