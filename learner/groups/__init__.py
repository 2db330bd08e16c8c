"""Scored groups: which prompts are drawn and issued, and the wait for their answers."""
