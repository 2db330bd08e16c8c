"""The REST API, version 1: what every reward saw, live and after the run."""

from reward_service.api.app import create_app, http_server
from reward_service.api.context import ApiContext

__all__ = ["ApiContext", "create_app", "http_server"]
