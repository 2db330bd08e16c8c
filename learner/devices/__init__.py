"""Turns of learner and actors on devices that they share."""
