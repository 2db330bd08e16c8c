"""The learner's connection to a run's Redis, its images there, and the fleet."""
