"""A typed client of the reward service's REST API."""

from vision_sr1.client.client import ApiError, Client

__all__ = ["ApiError", "Client"]
