"""Search by parts of words: an index of trigrams in place of one of whole words."""

import sqlite3

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_FIRST_WITH_TRIGRAMS = (3, 34)  # of SQLite; before, and on PostgreSQL without pg_trgm, texts are scanned


def upgrade() -> None:
    """Indexes all texts anew: 100,000 traces of 1 KB take a minute."""
    if op.get_bind().dialect.name == "sqlite":
        for trigger in ("trace_words_insert", "trace_words_delete"):
            op.execute(f"DROP TRIGGER {trigger}")
        op.execute("DROP TABLE trace_words")
        if sqlite3.sqlite_version_info >= _FIRST_WITH_TRIGRAMS:
            _index_sqlite()
    else:
        op.execute("DROP INDEX trace_words")
        if _has_pg_trgm():
            op.execute("CREATE INDEX trace_parts ON trace_bodies USING gin (text gin_trgm_ops)")


def downgrade() -> None:
    """Back to whole words, which are indexed anew."""
    if op.get_bind().dialect.name == "sqlite":
        for trigger in ("trace_parts_insert", "trace_parts_delete"):
            op.execute(f"DROP TRIGGER IF EXISTS {trigger}")
        op.execute("DROP TABLE IF EXISTS trace_parts")
        op.execute(
            "CREATE VIRTUAL TABLE trace_words USING fts5(text, content='trace_bodies', content_rowid='sequence')"
        )
        _keep_up("trace_words")
        op.execute("INSERT INTO trace_words(trace_words) VALUES ('rebuild')")
    else:
        op.execute("DROP INDEX IF EXISTS trace_parts")
        op.execute("CREATE INDEX trace_words ON trace_bodies USING gin (to_tsvector('simple', text))")


def _index_sqlite() -> None:
    op.execute(
        "CREATE VIRTUAL TABLE trace_parts USING fts5(text, content='trace_bodies', content_rowid='sequence', "
        "tokenize='trigram', detail='none')"
    )
    _keep_up("trace_parts")
    op.execute("INSERT INTO trace_parts(trace_parts) VALUES ('rebuild')")


def _keep_up(index: str) -> None:
    """Has an index follow its texts."""
    op.execute(
        f"CREATE TRIGGER {index}_insert AFTER INSERT ON trace_bodies BEGIN "
        f"INSERT INTO {index}(rowid, text) VALUES (new.sequence, new.text); END"
    )
    op.execute(
        f"CREATE TRIGGER {index}_delete AFTER DELETE ON trace_bodies BEGIN "
        f"INSERT INTO {index}({index}, rowid, text) VALUES ('delete', old.sequence, old.text); END"
    )


def _has_pg_trgm() -> bool:
    """Whether the extension is there, or can be made by this user."""
    try:
        with op.get_bind().begin_nested():
            op.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
    except sa.exc.DBAPIError:
        return False
    return True
