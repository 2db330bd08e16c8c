"""Groups on their way to the learner: which stream they take, and the word that one will not come."""

from vision_sr1.pipeline.ids import is_evaluation
from vision_sr1.pipeline.wire import SCHEMA_VERSION
from vision_sr1.streams import Output
from vision_sr1.v1 import pipeline_pb2 as pb

ASSEMBLED = "assembled"  # the stream of groups whose rewards are not all given: those per group are still to come


def sample_version(sample: pb.Sample) -> int:
    """The policy version of a sample: that of its last token."""
    return sample.versions[-1].policy_version


def is_truncated(sample: pb.Sample) -> bool:
    """Whether a sample ended at its token limit."""
    return sample.finish_reason == "length"


def is_empty(sample: pb.Sample) -> bool:
    """Whether a sample has no token but its end."""
    return len(sample.response_token_ids) <= 1


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
