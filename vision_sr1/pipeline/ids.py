"""Ids of prompts, by which their groups are told apart, and of re-queries."""

import hashlib

from vision_sr1.config import RequeryConfig
from vision_sr1.pipeline.prompt_properties import has_images
from vision_sr1.v1 import pipeline_pb2 as pb


def training_id(epoch: int, index: int) -> str:
    """The id of a training prompt: data set index within an epoch."""
    return f"{epoch}/{index}"


def training_place(prompt_id: str) -> tuple[int, int]:
    """Epoch and data set index of a training prompt, by its id.

    Raises:
        ValueError: it is no id of ours.
    """
    epoch, _, index = prompt_id.partition("/")
    return int(epoch), int(index)


def evaluation_id(split: str, policy_version: int, attempt: int, index: int) -> str:
    """The id of an evaluation prompt.

    Args:
        attempt: how often the run was resumed: what an earlier learner asked and did not see is asked anew.
    """
    return f"{split}@{policy_version}{f'.{attempt}' if attempt else ''}/{index}"


def evaluation_split(prompt_id: str) -> str:
    """The split of an evaluation prompt, by its id; its name may have an `@` too."""
    return prompt_id.rpartition("@")[0]


def evaluation_index(prompt_id: str) -> int:
    """Data set index of an evaluation prompt, by its id."""
    return int(prompt_id.rpartition("/")[2])


def requery_id(rollout: pb.Rollout, config: RequeryConfig) -> str:
    """The id of the request that asks what a rollout's description is worth: the same for rollouts that share it.

    It is that of the prompt's own question; `question_id` makes those of further ones of it.

    Empty where nothing is asked: without a description, or to a prompt without images.
    """
    description = rollout.parts.description
    if not description or not has_images(rollout.prompt):
        return ""
    if config.is_shared(rollout.prompt.sampling.temperature):
        return f"{rollout.prompt.id}/requery/{hashlib.sha256(description.encode()).hexdigest()[:16]}"
    return f"{rollout.id}/requery"


def question_id(own_id: str, question: int) -> str:
    """The id of the request that asks a description one of its questions.

    Args:
        own_id: the `requery_id`.
        question: 0 for the prompt's own, n for the n-th of its further ones.
    """
    return f"{own_id}/{question}" if question else own_id


def is_evaluation(prompt_id: str) -> bool:
    """Whether a prompt's id is one of evaluation."""
    return "@" in prompt_id
