"""The store's tables. What is searched and sorted by is apart from the messages, which are read one page at a time.

Changes of them are migrations: `migrations/versions`.
"""

from typing import get_args

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, LargeBinary, SmallInteger, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from vision_sr1.client.models import Pattern

Number = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts rows in its own integer

# What an answer and its description are worth, as Trace.outcome counts it.
OUTCOMES: tuple[Pattern, ...] = get_args(Pattern)
NO_REWARDS = ("outcome", "response_tokens")  # what RewardCount counts besides rewards
SEARCHED = ("format", "accuracy", "visual")  # rewards with a column of Trace


class Base(DeclarativeBase):
    """Tables of the store."""


class Trace(Base):
    """One scored rollout, as far as one searches for it."""

    __tablename__ = "traces"
    __table_args__ = (
        Index("traces_by_id", "run", "id", unique=True),
        Index("traces_by_run", "run", "sequence"),
        Index("traces_by_group", "run", "group_id"),
        Index("traces_by_prompt", "run", "prompt_key"),
        Index("traces_by_version", "run", "policy_version", "sequence"),
        Index("traces_by_source", "run", "data_source", "sequence"),
        Index("traces_by_outcome", "run", "outcome", "sequence"),
        Index("traces_by_time", "recorded_at"),
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
