"""Failures of weight transfers told as values.

Where one of several workers raises, vLLM's executor leaves the replies of the others unread and takes them for those to
its next call (vLLM pull request 57846). So engines keep what went wrong until they are asked.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any


def keeps_failure(method: Callable[..., None]) -> Callable[..., None]:
    """Has a method of an engine keep its error in `failure` in place of raising it, unless there is one already."""

    @wraps(method)
    def keeping(engine: Any, *arguments: Any, **options: Any) -> None:
        try:
            method(engine, *arguments, **options)
        except Exception as error:
            engine.failure = engine.failure or f"{type(error).__name__}: {error}"

    return keeping
