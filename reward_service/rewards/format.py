"""The reward for the form: the blocks asked for, by the authors' rule or each exactly once."""

from vision_sr1.config import RewardConfig
from vision_sr1.prompting.response import ParsedResponse, ResponseFormat, surplus_tags
from vision_sr1.rewards import Reward, ScoredResponse

_BLOCKS: dict[ResponseFormat, str] = {
    "description_think_answer": r"<description>, <think>, \boxed{}",
    "think_answer": r"<think>, \boxed{}",
}


def response_format(answered: ScoredResponse, config: RewardConfig) -> Reward:
    """The blocks of `reward.response_format` in this order.

    By the authors' rule the response begins with the first block's tag, one block's end leads to the next, and it ends
    with one box: repeated tags, and what is between them, are accepted. `reward.strict_format` accepts each block
    exactly once and nothing outside them. A question without images asks for no description.
    """
    wanted: ResponseFormat = config.response_format if answered.has_images else "think_answer"
    asked = _BLOCKS[wanted]
    if answered.format == wanted:
        if not (surplus := surplus_tags(answered.response.encode(), wanted)):
            return Reward(1.0, f"is {asked}, each once, and nothing else")
        has = "it has " + ", ".join(f"{tag} {count} times" if count > 1 else tag for tag, count in surplus.items())
        if config.strict_format:
            return Reward(0.0, f"is not {asked}, each once, and nothing else: {has}")
        return Reward(1.0, f"counts as {asked} by the authors' rule, which accepts further tags: {has}")
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


def has_requery_format(response: str, parsed: ParsedResponse, config: RewardConfig) -> bool:
    """Whether a re-query's response is a think block and a box, by the rule that also applies to responses."""
    if parsed.format != "think_answer":
        return False
    return not (config.strict_format and surplus_tags(response.encode(), parsed.format))
