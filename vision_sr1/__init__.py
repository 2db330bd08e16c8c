"""What all services of Vision-SR1 agree on: configuration, prompts, streams, weight transfer, metrics."""

__version__ = "0.1.0"
