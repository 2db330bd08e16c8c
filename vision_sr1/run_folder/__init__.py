"""A run's folder: what is in it, and what resuming from it means."""
