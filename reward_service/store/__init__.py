"""The trace store: what every reward saw, in SQLite or PostgreSQL. Writing never blocks scoring."""

from reward_service.store.database import StoreError, close_store, connect_store, open_store, prepare_store
from reward_service.store.filters import CursorError, EarlierStoreError, GroupFilter, TraceFilter
from reward_service.store.reader import TraceReader
from reward_service.store.tables import SEARCHED, Trace
from reward_service.store.writer import TraceWriter

__all__ = [
    "SEARCHED",
    "CursorError",
    "EarlierStoreError",
    "GroupFilter",
    "StoreError",
    "Trace",
    "TraceFilter",
    "TraceReader",
    "TraceWriter",
    "close_store",
    "connect_store",
    "open_store",
    "prepare_store",
]
