"""A prompt's way through the services: its messages and ids, its groups and answers, the fleet that works on it."""
