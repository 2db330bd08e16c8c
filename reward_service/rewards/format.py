"""The reward `format`: 1 where a response is the blocks asked for and nothing else, as in the paper."""

from vision_sr1.config import RewardConfig
from vision_sr1.prompting.response import ResponseFormat
from vision_sr1.rewards import Reward, ScoredResponse

_BLOCKS: dict[ResponseFormat, str] = {
    "description_think_answer": r"<description>, <think>, \boxed{}",
    "think_answer": r"<think>, \boxed{}",
}


def response_format(answered: ScoredResponse, config: RewardConfig) -> Reward:
    """Up to white space, the blocks of `reward.response_format` in this order; what is in them does not matter.

    A question without images asks for no description.
    """
    wanted: ResponseFormat = config.response_format if answered.has_images else "think_answer"
    asked = _BLOCKS[wanted]
    if answered.format == wanted:
        return Reward(1.0, f"is {asked} and nothing else")
    if answered.format is not None:
        return Reward(0.0, f"is {_BLOCKS[answered.format]}, not {asked}")
    lacking = [
        name
        for name, there in (
            ("description", answered.description or not answered.has_images),
            (r"\boxed{}", answered.answer),
        )
        if not there
    ]
    return Reward(0.0, f"is not {asked} and nothing else" + (f"; no {' and no '.join(lacking)}" if lacking else ""))
