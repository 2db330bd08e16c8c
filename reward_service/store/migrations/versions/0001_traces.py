"""Traces, their bodies with a full-text index, images, and counts of rewards."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Makes all tables."""
    op.create_table(
        "traces",
        sa.Column("sequence", _NUMBER, primary_key=True, autoincrement=True),
        sa.Column("run", sa.String(128), nullable=False),
        sa.Column("id", sa.String(256), nullable=False),
        sa.Column("group_id", sa.String(256), nullable=False),
        sa.Column("prompt_key", sa.String(16), nullable=False),
        sa.Column("purpose", sa.String(16), nullable=False),
        sa.Column("data_source", sa.String(256), nullable=False),
        sa.Column("policy_version", sa.BigInteger, nullable=False),
        sa.Column("recorded_at", sa.Double, nullable=False),
        sa.Column("format", sa.Double),
        sa.Column("accuracy", sa.Double),
        sa.Column("visual", sa.Double),
        sa.Column("outcome", sa.SmallInteger),
        sqlite_autoincrement=True,
    )
    op.create_index("traces_by_id", "traces", ["run", "id"], unique=True)
    op.create_index("traces_by_run", "traces", ["run", "sequence"])
    op.create_index("traces_by_group", "traces", ["run", "group_id"])
    op.create_index("traces_by_prompt", "traces", ["run", "prompt_key"])
    op.create_index("traces_by_version", "traces", ["run", "policy_version", "sequence"])
    op.create_index("traces_by_source", "traces", ["run", "data_source", "sequence"])
    op.create_index("traces_by_outcome", "traces", ["run", "outcome", "sequence"])
    op.create_index("traces_by_time", "traces", ["recorded_at"])
    op.create_table(
        "trace_bodies",
        sa.Column(
            "sequence",
            _NUMBER,
            sa.ForeignKey("traces.sequence", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("message", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "images",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("media_type", sa.String(64), nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("used_at", sa.Double, nullable=False),
    )
    op.create_table(
        "reward_counts",
        sa.Column("run", sa.String(128), primary_key=True),
        sa.Column("purpose", sa.String(16), primary_key=True),
        sa.Column("data_source", sa.String(256), primary_key=True),
        sa.Column("policy_version", sa.BigInteger, primary_key=True),
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("bin", sa.SmallInteger, primary_key=True),
        sa.Column("low", sa.Double, nullable=False),
        sa.Column("high", sa.Double, nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("total", sa.Double, nullable=False),
    )
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "CREATE VIRTUAL TABLE trace_words USING fts5(text, content='trace_bodies', content_rowid='sequence')"
        )
        op.execute(
            "CREATE TRIGGER trace_words_insert AFTER INSERT ON trace_bodies BEGIN "
            "INSERT INTO trace_words(rowid, text) VALUES (new.sequence, new.text); END"
        )
        op.execute(
            "CREATE TRIGGER trace_words_delete AFTER DELETE ON trace_bodies BEGIN "
            "INSERT INTO trace_words(trace_words, rowid, text) VALUES ('delete', old.sequence, old.text); END"
        )
    else:
        op.execute("CREATE INDEX trace_words ON trace_bodies USING gin (to_tsvector('simple', text))")


def downgrade() -> None:
    """Drops all tables."""
    for table in ("reward_counts", "images", "trace_bodies", "traces"):
        op.drop_table(table)
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TABLE trace_words")
