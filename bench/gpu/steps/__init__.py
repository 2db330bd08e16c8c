"""The steps, one a module: `run` fills in what it finds."""
