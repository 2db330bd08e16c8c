"""Which traces are kept, and for how long."""

import hashlib
import time

from sqlalchemy import Engine, delete, func, select

from reward_service.store.tables import StoredImage, Trace, TraceGroup
from vision_sr1.config import TracesConfig


def is_kept(group_id: str, config: TracesConfig) -> bool:
    """Whether a group is in the sample: whole or not at all, whichever replica asks."""
    if config.sample >= 1:
        return True
    digest = hashlib.sha256(group_id.encode()).digest()
    return int.from_bytes(digest[:8]) < config.sample * 2**64


def remove_old(engine: Engine, config: TracesConfig) -> int:
    """Removes traces by age and by count, with the groups and images that no trace left is of; returns how many."""
    removed = 0
    with engine.begin() as connection:
        conditions = []
        if config.keep_days is not None:
            conditions.append(Trace.recorded_at < time.time() - 86_400 * config.keep_days)
        if config.keep_count is not None:
            newest = select(Trace.sequence).order_by(Trace.sequence.desc()).offset(config.keep_count).limit(1)
            conditions.append(Trace.sequence <= newest.scalar_subquery())
        for condition in conditions:
            removed += connection.execute(delete(Trace).where(condition)).rowcount
        if removed:
            first = select(func.min(Trace.sequence)).scalar_subquery()
            connection.execute(delete(TraceGroup).where(TraceGroup.sequence < func.coalesce(first, 2**63 - 1)))
            oldest = select(func.min(Trace.recorded_at)).scalar_subquery()
            connection.execute(delete(StoredImage).where(StoredImage.used_at < func.coalesce(oldest, time.time())))
    return removed
