"""Alembic's entry: the connection is the one that opens the store (`reward_service.store.database`)."""

from alembic import context

from reward_service.store.tables import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
