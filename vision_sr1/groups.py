"""Groups on their way to the learner: which stream they take, and the word that one will not come."""

import hashlib
from typing import Literal

from vision_sr1.config import RequeryConfig
from vision_sr1.prompting.prompt_template import IMAGE_MARKER
from vision_sr1.streams import Output
from vision_sr1.v1 import pipeline_pb2 as pb
from vision_sr1.wire import SCHEMA_VERSION

ASSEMBLED = "assembled"  # the stream of groups whose rewards are not all given: those per group are still to come


def sample_version(sample: pb.Sample) -> int:
    """The policy version of a sample: that of its last token."""
    return sample.versions[-1].policy_version


def was_cut_off(sample: pb.Sample) -> bool:
    """Whether a sample ended at its token limit."""
    return sample.finish_reason == "length"


def sees(prompt: pb.Prompt) -> bool:
    """Whether a prompt has images, or says that it has: then a description is asked for, and worth something."""
    return bool(prompt.images) or IMAGE_MARKER in prompt.question


def purpose_name(prompt: pb.Prompt) -> Literal["train", "evaluation"]:
    """What a prompt was drawn for, as people read it."""
    return "evaluation" if prompt.purpose == pb.PURPOSE_EVALUATION else "train"


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


def evaluation_index(prompt_id: str) -> int:
    """Data set index of an evaluation prompt, by its id."""
    return int(prompt_id.rpartition("/")[2])


def requery_id(rollout: pb.Rollout, description: str, config: RequeryConfig) -> str:
    """The id of the request that asks what a rollout's description is worth: the same for rollouts that share it."""
    if config.is_shared(rollout.prompt.sampling.temperature):
        return f"{rollout.prompt.id}/requery/{hashlib.sha256(description.encode()).hexdigest()[:16]}"
    return f"{rollout.id}/requery"


def is_evaluation(prompt_id: str) -> bool:
    """Whether a prompt's id is one of evaluation."""
    return "@" in prompt_id


def group_stream(prompt_id: str) -> str:
    """The stream that a prompt's scored group is written to."""
    return "evaluated" if is_evaluation(prompt_id) else "scored"


def empty_group(prompt_id: str) -> pb.ScoredGroup:
    """A group without rollouts; as a member of a group, it adds nothing."""
    purpose = pb.PURPOSE_EVALUATION if is_evaluation(prompt_id) else pb.PURPOSE_TRAIN
    return pb.ScoredGroup(schema_version=SCHEMA_VERSION, id=prompt_id, purpose=purpose)


def without_group(prompt_id: str) -> Output:
    """An empty group: tells whoever waits for the prompt's group that there will be none."""
    return Output(group_stream(prompt_id), prompt_id, empty_group(prompt_id).SerializeToString())
