"""Experiment trackers: where curves and examples go besides Prometheus and the run's own files."""

from learner.metrics.trackers.background import Trackers
from learner.metrics.trackers.base import TrackedExample, Tracker

__all__ = ["TrackedExample", "Tracker", "Trackers"]
