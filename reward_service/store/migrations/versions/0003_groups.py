"""Groups with what their answers are together; which traces lack a reward or are truncated."""

import sqlalchemy as sa
from alembic import op

from reward_service.store.groups import add_to_groups, group_row
from vision_sr1.v1 import pipeline_pb2 as pb

revision = "0003"
down_revision = "0002"

AT_ONCE = 1000  # traces

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Adds the table and the columns, and fills them from the traces that are there."""
    for name in ("missing", "truncated"):
        op.add_column("traces", sa.Column(name, sa.SmallInteger, nullable=False, server_default="0"))
    op.drop_index("traces_by_prompt", "traces")
    op.create_index("traces_by_prompt", "traces", ["run", "prompt_key", "policy_version", "sequence"])
    op.create_table(
        "trace_groups",
        sa.Column("run", sa.String(128), primary_key=True),
        sa.Column("id", sa.String(256), primary_key=True),
        sa.Column("sequence", _NUMBER, nullable=False),
        sa.Column("purpose", sa.String(16), nullable=False),
        sa.Column("data_source", sa.String(256), nullable=False),
        sa.Column("min_version", sa.BigInteger, nullable=False),
        sa.Column("max_version", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.Integer, nullable=False) for name in ("answers", "right", "wrong", "shortcuts")),
        sa.Column("outcomes", sa.SmallInteger, nullable=False),
        *(sa.Column(name, sa.Integer, nullable=False) for name in ("missing", "truncated")),
        *(sa.Column(f"{end}_{name}", sa.Double) for name in ("format", "accuracy", "visual") for end in ("min", "max")),
        sa.Column("ranges", sa.Text, nullable=False),
        sa.Column("varied", sa.Text, nullable=False),
    )
    _fill(op.get_bind())
    for name in ("missing", "truncated"):
        where = sa.text(f"{name} > 0")
        op.create_index(f"traces_{name}", "traces", ["run", "sequence"], sqlite_where=where, postgresql_where=where)
    op.create_index("trace_groups_by_sequence", "trace_groups", ["run", "sequence"])
    for name in ("right", "wrong", "shortcuts"):
        op.create_index(f"trace_groups_by_{name}", "trace_groups", ["run", name, "sequence"])


def downgrade() -> None:
    """Drops them."""
    op.drop_table("trace_groups")
    for name in ("missing", "truncated"):
        op.drop_index(f"traces_{name}", "traces")
        op.drop_column("traces", name)
    op.drop_index("traces_by_prompt", "traces")
    op.create_index("traces_by_prompt", "traces", ["run", "prompt_key"])


def _fill(connection: sa.Connection) -> None:
    page = sa.text("SELECT sequence, message FROM trace_bodies WHERE sequence > :last ORDER BY sequence LIMIT :count")
    mark = sa.text("UPDATE traces SET missing = :missing, truncated = :truncated WHERE sequence = :sequence")
    last = -1
    while rows := connection.execute(page, {"last": last, "count": AT_ONCE}).all():
        traces = [(sequence, pb.ScoredRollout.FromString(message)) for sequence, message in rows]
        groups = [group_row(sequence, scored) for sequence, scored in traces]
        add_to_groups(connection, groups)
        marked = [
            {"sequence": sequence, "missing": len(scored.missing), "truncated": group["truncated"]}
            for (sequence, scored), group in zip(traces, groups, strict=True)
            if scored.missing or group["truncated"]
        ]
        if marked:
            connection.execute(mark, marked)
        last = rows[-1][0]
