"""Scoring of rollouts, the trace store and the REST API."""
