"""The parts of a response on the wire: parsed where the response is written, and read everywhere else."""

from collections.abc import Sequence
from typing import get_args

from vision_sr1.prompting.response import ResponseFormat, Span, TokenPlaces, parse_response
from vision_sr1.v1 import pipeline_pb2 as pb


def parse_parts(token_bytes: Sequence[bytes]) -> pb.ResponseParts:
    """The parts of a response.

    Args:
        token_bytes: bytes of its tokens.
    """
    parsed, places = parse_response(b"".join(token_bytes)), TokenPlaces(token_bytes)

    def span(of: Span | None) -> pb.TokenSpan | None:
        if of is None:
            return None
        start, end = places.span(of)
        return pb.TokenSpan(start=start, end=end)

    return pb.ResponseParts(
        format=parsed.format or "",
        description=parsed.description,
        answer=parsed.answer,
        description_span=span(parsed.description_span),
        think_span=span(parsed.think_span),
        answer_span=span(parsed.answer_span),
    )


def response_format(parts: pb.ResponseParts) -> ResponseFormat | None:
    """The blocks that the response is; None where it is neither form."""
    return next((name for name in get_args(ResponseFormat) if name == parts.format), None)


def description_of(scored: pb.ScoredRollout) -> str:
    """The text of a scored response's description, empty without one; parsed in traces of earlier releases."""
    if scored.rollout.HasField("parts"):
        return scored.rollout.parts.description
    return parse_response(scored.response.encode()).description or ""


def answer_of(scored: pb.ScoredRollout) -> str:
    """The content of a scored response's last box, likewise."""
    if scored.rollout.HasField("parts"):
        return scored.rollout.parts.answer
    return parse_response(scored.response.encode()).answer or ""
