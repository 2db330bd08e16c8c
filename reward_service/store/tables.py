"""The store's tables. What is searched and sorted by is apart from the messages, which are read one page at a time.

Changes of them are migrations: `migrations/versions`.
"""

from typing import get_args

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, LargeBinary, SmallInteger, String, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from vision_sr1.client.models import Pattern

Number = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts rows in its own integer

# What an answer and its description are worth, as Trace.outcome counts it.
OUTCOMES: tuple[Pattern, ...] = get_args(Pattern)
NO_REWARDS = ("outcome", "response_tokens")  # what RewardCount counts besides rewards
SEARCHED = ("format", "accuracy", "visual")  # rewards with a column of Trace


class Base(DeclarativeBase):
    """Tables of the store."""


def _partial(name: str, condition: str) -> Index:
    """Of the few traces of a run that are so, the newest are at hand."""
    return Index(name, "run", "sequence", sqlite_where=text(condition), postgresql_where=text(condition))


class Trace(Base):
    """One scored rollout, as far as one searches for it."""

    __tablename__ = "traces"
    __table_args__ = (
        Index("traces_by_id", "run", "id", unique=True),
        Index("traces_by_run", "run", "sequence"),
        Index("traces_by_group", "run", "group_id"),
        Index("traces_by_prompt", "run", "prompt_key", "policy_version", "sequence"),
        Index("traces_by_version", "run", "policy_version", "sequence"),
        Index("traces_by_source", "run", "data_source", "sequence"),
        Index("traces_by_outcome", "run", "outcome", "sequence"),
        Index("traces_by_time", "recorded_at"),
        _partial("traces_missing", "missing > 0"),
        _partial("traces_truncated", "truncated > 0"),
    )

    sequence: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=True)
    run: Mapped[str] = mapped_column(String(128))
    id: Mapped[str] = mapped_column(String(256))
    group_id: Mapped[str] = mapped_column(String(256))
    prompt_key: Mapped[str] = mapped_column(String(16))  # the same for the same question, answer and images in any run
    purpose: Mapped[str] = mapped_column(String(16))
    data_source: Mapped[str] = mapped_column(String(256))
    policy_version: Mapped[int] = mapped_column(BigInteger)
    recorded_at: Mapped[float]  # seconds since the epoch
    format: Mapped[float | None]
    accuracy: Mapped[float | None]
    visual: Mapped[float | None]
    outcome: Mapped[int | None] = mapped_column(SmallInteger)  # place in OUTCOMES; None where a reward is missing
    missing: Mapped[int] = mapped_column(SmallInteger, server_default="0")  # how many rewards are
    truncated: Mapped[int] = mapped_column(SmallInteger, server_default="0")  # 1: the response ended at its token limit


class TraceGroup(Base):
    """All recorded answers to one prompt, as far as one searches for them together.

    `min_format` to `max_visual` are the least and the greatest reward of its answers.
    """

    __tablename__ = "trace_groups"
    __table_args__ = (
        Index("trace_groups_by_sequence", "run", "sequence"),
        Index("trace_groups_by_right", "run", "right", "sequence"),
        Index("trace_groups_by_wrong", "run", "wrong", "sequence"),
        Index("trace_groups_by_shortcuts", "run", "shortcuts", "sequence"),
    )

    run: Mapped[str] = mapped_column(String(128), primary_key=True)
    id: Mapped[str] = mapped_column(String(256), primary_key=True)
    sequence: Mapped[int] = mapped_column(Number)  # of its newest trace
    purpose: Mapped[str] = mapped_column(String(16))
    data_source: Mapped[str] = mapped_column(String(256))
    min_version: Mapped[int] = mapped_column(BigInteger)
    max_version: Mapped[int] = mapped_column(BigInteger)
    answers: Mapped[int]
    right: Mapped[int]
    wrong: Mapped[int]
    shortcuts: Mapped[int]
    outcomes: Mapped[int] = mapped_column(SmallInteger)  # bit n: some answer has OUTCOMES[n]
    missing: Mapped[int]  # answers that lack a reward
    truncated: Mapped[int]
    min_format: Mapped[float | None]
    max_format: Mapped[float | None]
    min_accuracy: Mapped[float | None]
    max_accuracy: Mapped[float | None]
    min_visual: Mapped[float | None]
    max_visual: Mapped[float | None]
    ranges: Mapped[str] = mapped_column(Text)  # JSON: of every reward by name (groups.py), the least and the greatest
    varied: Mapped[str] = mapped_column(Text)  # rewards in which answers differ, as `,accuracy,visual,`


class TraceBody(Base):
    """The whole of a trace: a ScoredRollout message, and the words to find it by."""

    __tablename__ = "trace_bodies"

    sequence: Mapped[int] = mapped_column(
        Number, ForeignKey("traces.sequence", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    text: Mapped[str] = mapped_column(Text)
    message: Mapped[bytes] = mapped_column(LargeBinary)


class StoredImage(Base):
    """An image that traces refer to."""

    __tablename__ = "images"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    media_type: Mapped[str] = mapped_column(String(64))
    data: Mapped[bytes] = mapped_column(LargeBinary)
    used_at: Mapped[float]  # when a trace that refers to it was recorded last


class RewardCount(Base):
    """How many rewards of a name had a value in [low, high]; of all rollouts, those whose traces are not kept included.

    A bin of -1 counts the missing ones. Besides rewards, `outcome` counts places in OUTCOMES and `response_tokens`
    lengths.
    """

    __tablename__ = "reward_counts"

    run: Mapped[str] = mapped_column(String(128), primary_key=True)
    purpose: Mapped[str] = mapped_column(String(16), primary_key=True)
    data_source: Mapped[str] = mapped_column(String(256), primary_key=True)
    policy_version: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    bin: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    low: Mapped[float]
    high: Mapped[float]
    count: Mapped[int] = mapped_column(BigInteger)
    total: Mapped[float]
