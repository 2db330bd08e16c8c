"""A run's folder: the names of what is in it, and how that is read and written."""
