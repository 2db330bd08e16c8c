"""What a prompt on the wire says of itself."""

from typing import Literal

from vision_sr1.prompting.prompt_template import IMAGE_MARKER
from vision_sr1.v1 import pipeline_pb2 as pb


def has_images(prompt: pb.Prompt) -> bool:
    """Whether a prompt has images, or says that it has: then a description is asked for, and worth something."""
    return bool(prompt.images) or IMAGE_MARKER in prompt.question


def questions_of(prompt: pb.Prompt) -> list[pb.FurtherQuestion]:
    """All questions that a description of the prompt's images is asked: its own, then the further ones."""
    own = pb.FurtherQuestion(question=prompt.question, answer=prompt.answer, data_source=prompt.data_source)
    return [own, *prompt.further_questions]


def purpose_name(prompt: pb.Prompt) -> Literal["train", "evaluation"]:
    """What a prompt was drawn for, as people read it."""
    return "evaluation" if prompt.purpose == pb.PURPOSE_EVALUATION else "train"
