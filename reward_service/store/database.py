"""Opening and closing the store: connections to SQLite or PostgreSQL, and its tables as this version needs them."""

import contextlib
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from reward_service.store.tables import Base
from vision_sr1.config import ConfigError, TracesConfig

TIMEOUT_S = 10.0  # for a lock that another replica holds
CHECKPOINT_TIMEOUT_MS = 1000  # for other processes that read the store as this one closes it
_WRITES = "writes"
READABLE = ("0001", "0002")  # older versions of the tables that are read as they are
_LOCK = 0x7653_5231  # of migrations, on PostgreSQL


class StoreError(ConfigError):
    """The store cannot be used as it is."""


def open_store(config: TracesConfig, url: str, *, read_only: bool = False) -> Engine:
    """Connects, and brings the tables up to date.

    Args:
        url: SQLAlchemy's; see `Config.traces_url`.
        read_only: changes nothing; the tables must be of this version or one of READABLE.

    Raises:
        ConfigError: the URL is none, or names a database that this version does not know.
        StoreError: it cannot be reached, or its tables are of another version.
    """
    engine = connect_store(config, url, read_only=read_only)
    try:
        if read_only:
            with engine.begin() as connection:
                _check_version(connection)
        else:
            prepare_store(engine)
    except StoreError:
        engine.dispose()
        raise
    except SQLAlchemyError as error:
        engine.dispose()
        raise StoreError(f"the trace store {engine.url} cannot be opened: {error}") from error
    return engine


def connect_store(config: TracesConfig, url: str, *, read_only: bool = False) -> Engine:
    """A pool of connections, none of which is made yet.

    Raises:
        ConfigError: as in `open_store`.
    """
    try:
        address = make_url(url)
        if config.password is not None:
            address = address.set(password=config.password.get_secret_value())
        backend = address.get_backend_name()
        if backend not in ("sqlite", "postgresql"):
            raise ConfigError(f"reward.traces.url: {backend} is not known; use sqlite:/// or postgresql+psycopg://")
        if read_only and backend == "sqlite" and not Path(address.database or "").is_file():
            raise StoreError(f"there are no traces: {address.database} is no file")
        engine = create_engine(address, pool_pre_ping=True, **_options(backend))
    except (SQLAlchemyError, ImportError) as error:
        raise ConfigError(f"reward.traces.url: {error}; use sqlite:///FILE or postgresql+psycopg://HOST/DB") from error
    if backend == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite_reading if read_only else _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def close_store(engine: Engine) -> None:
    """Closes all connections. SQLite's write-ahead log is moved into the file, which is then whole on its own; where
    another process uses the store meanwhile, the last to close it does so.
    """
    database = engine.url.database
    if engine.dialect.name == "sqlite" and database and Path(database).is_file():
        # Where it fails, nothing is lost: the log stays beside the file.
        with contextlib.suppress(engine.dialect.loaded_dbapi.Error, SQLAlchemyError):
            connection = engine.raw_connection()
            try:
                cursor = connection.cursor()
                cursor.execute(f"PRAGMA busy_timeout={CHECKPOINT_TIMEOUT_MS}")
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                connection.close()
    engine.dispose()


def prepare_store(engine: Engine) -> None:
    """Brings the tables up to date; replicas may do so at once.

    Raises:
        SQLAlchemyError: the store is down.
        StoreError: it holds something else.
    """
    with writing(engine).begin() as connection:
        _upgrade(connection)


def writing(engine: Engine) -> Engine:
    """The same store for transactions that write: on SQLite they wait for one another, where others would fail."""
    return engine.execution_options(**{_WRITES: True})


def upsert(connection: Connection, table: type[Base]) -> Any:
    """An INSERT of the connection's dialect that can say what to do about rows that are there already."""
    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)


def migrations(connection: Connection) -> alembic.config.Config:
    """Alembic's configuration, over a connection."""
    config = alembic.config.Config()
    config.set_main_option("script_location", "reward_service.store:migrations")
    config.attributes["connection"] = connection
    return config


def _options(backend: str) -> dict[str, Any]:
    if backend == "sqlite":
        return {"connect_args": {"timeout": TIMEOUT_S, "check_same_thread": False}}
    return {
        "pool_size": 5,
        "connect_args": {"connect_timeout": int(TIMEOUT_S), "options": "-c statement_timeout=60000"},
    }


def _upgrade(connection: Connection) -> None:
    """Migrates, one replica at a time: SQLite's transaction is exclusive, PostgreSQL gets a lock."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    tables = inspect(connection).get_table_names()
    if "traces" in tables and "alembic_version" not in tables:
        raise StoreError(
            f"{connection.engine.url} has tables of a version before the first release: move it away, or set "
            "reward.traces.url to another place"
        )
    alembic.command.upgrade(migrations(connection), "head")


def _check_version(connection: Connection) -> None:
    held = MigrationContext.configure(connection).get_current_revision()
    wanted = ScriptDirectory.from_config(migrations(connection)).get_current_head()
    if held not in (wanted, *READABLE):
        raise StoreError(
            f"the trace store {connection.engine.url} is of version {held}, this program knows {wanted}: "
            + ("it holds no traces" if held is None else "let a reward service of this version open it once")
        )


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver in its own time
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")


def _prepare_sqlite_reading(connection: Any, _: object) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA query_only=ON")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(_WRITES) else "BEGIN")
