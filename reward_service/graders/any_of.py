"""The grader `any_of`: references that are several answers."""

import json

from reward_service.graders.numbers import numeric


def any_of(answer: str, reference: str, _: str = "", *, tolerance: float) -> bool:
    """One of the answers that the reference lists (a JSON list of texts), each as a number or as `normalized`."""
    return any(numeric(answer, one, tolerance=tolerance) for one in listed(reference))


def listed(reference: str) -> list[str]:
    """The answers of a JSON list; any other text is one answer."""
    try:
        answers = json.loads(reference)
    except (ValueError, RecursionError):
        return [reference]
    return [str(one) for one in answers] if isinstance(answers, list) else [reference]
