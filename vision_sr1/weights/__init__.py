"""Carrying weights from the learner to the actors over vLLM's weight-transfer API."""
