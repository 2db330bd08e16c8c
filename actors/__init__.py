"""Stateless vLLM actor servers: they answer prompts and take new weights."""
