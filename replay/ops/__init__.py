"""Columns of ops, and the contract between planner, engines and targets."""
