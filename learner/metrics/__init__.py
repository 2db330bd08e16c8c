"""Metrics of a run: its scalars, and the trackers that show them."""
