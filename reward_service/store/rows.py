"""A scored rollout as rows of the store."""

import hashlib
import time
from collections.abc import Mapping
from typing import Any

from reward_service.store.tables import SEARCHED
from vision_sr1.pipeline.prompt_properties import purpose_name
from vision_sr1.pipeline.scored_groups import is_truncated, sample_version
from vision_sr1.rewards.names import own_visual
from vision_sr1.v1 import pipeline_pb2 as pb

TEXT_LENGTH = 100_000  # characters of a trace that it can be found by


def trace_row(scored: pb.ScoredRollout) -> dict[str, Any]:
    """Columns of Trace, the sequence left out."""
    rollout = scored.rollout
    prompt = rollout.prompt
    given = {name: dict(scored.rewards).get(name) for name in SEARCHED}
    return {
        "run": prompt.run,
        "id": rollout.id,
        "group_id": prompt.id,
        "prompt_key": prompt_key(prompt),
        "purpose": purpose_name(prompt),
        "data_source": prompt.data_source,
        "policy_version": sample_version(rollout.sample),
        "recorded_at": time.time(),
        **given,
        "outcome": outcome_of(scored.rewards),
        "missing": len(scored.missing),
        "truncated": int(is_truncated(rollout.sample)),
    }


def prompt_key(prompt: pb.Prompt) -> str:
    """The same for the same question, answer and images in any run."""
    parts = (prompt.question, prompt.answer, *(image.sha256 for image in prompt.images))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def trace_body(scored: pb.ScoredRollout) -> dict[str, Any]:
    """Columns of TraceBody, the sequence left out."""
    prompt = scored.rollout.prompt
    further = [text for asked in prompt.further_questions for text in (asked.question, asked.answer)]
    requeries = [requery.response for requery in scored.requeries]
    texts = (prompt.question, prompt.answer, scored.response, *requeries, *further)
    text = "\n".join(texts).replace("\0", " ")[:TEXT_LENGTH]  # PostgreSQL's text has no NUL
    return {"text": text, "message": scored.SerializeToString()}


def outcome_of(rewards: Mapping[str, float]) -> int | None:
    """The place in OUTCOMES. As the paper counts language shortcuts: right, and no re-query's answer to the prompt's
    own question was."""
    accuracy, visual = rewards.get("accuracy"), own_visual(rewards)
    if accuracy is None or visual is None:
        return None
    return 2 * (accuracy > 0) + (visual > 0)
