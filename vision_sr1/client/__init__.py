"""A typed client of the reward service's REST API."""

from vision_sr1.client.client import ApiError, Client
from vision_sr1.client.filters import GroupFilters, TraceFilters

__all__ = ["ApiError", "Client", "GroupFilters", "TraceFilters"]
