"""Resuming with other settings, data or weights than a checkpoint was written with: what changed, what follows."""
