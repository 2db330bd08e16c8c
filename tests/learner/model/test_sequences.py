"""Conversations as sequences: where images go, and what is learned from."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from learner.model.sequences import SequenceBuilder, SequenceError
from vision_sr1.config import ModelConfig


def picture() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (56, 56), "red").save(data, "PNG")
    return data.getvalue()


@pytest.fixture(scope="module")
def builder(tiny_model: Path) -> SequenceBuilder:
    return SequenceBuilder(ModelConfig(path=str(tiny_model), min_pixels=3136, max_pixels=3136, max_model_len=256))


def talk(*turns: str) -> list[dict[str, str]]:
    """`role: content` each."""
    return [dict(zip(("role", "content"), turn.split(": ", 1), strict=True)) for turn in turns]


def before_images(builder: SequenceBuilder, messages: list[dict[str, str]], images: int) -> list[str]:
    """The text before each image."""
    sequence = builder.from_messages(messages, [picture()] * images)
    starts = np.flatnonzero(sequence.is_image & ~np.roll(sequence.is_image, 1))
    return [builder.tokenizer.decode(sequence.token_ids[:start]) for start in starts]


def test_images_without_markers_are_the_first_question_s_whoever_speaks_before(builder: SequenceBuilder):
    (before,) = before_images(builder, talk("system: count .", "user: what color ?", "assistant: red"), 1)
    assert "count" in before
    assert "what" not in before


def test_images_are_where_their_markers_are(builder: SequenceBuilder):
    turns = talk("user: what color ?", "assistant: red", "user: and <image> ? <image>", "assistant: blue")
    first, second = before_images(builder, turns, 2)
    assert "red" in first
    assert first.rstrip().endswith("and <|vision_start|>")
    assert "?" in second[len(first) :]


def test_images_may_come_in_any_turn(builder: SequenceBuilder):
    turns = talk("user: <image> what ?", "assistant: red", "user: and <image> ?", "assistant: blue")
    first, second = before_images(builder, turns, 2)
    assert "what" not in first
    assert "red" in second


@pytest.mark.parametrize(("markers", "images"), [(2, 1), (1, 2), (1, 0)])
def test_markers_that_do_not_match_the_images_are_refused(builder: SequenceBuilder, markers: int, images: int):
    turns = talk("user: " + "<image> " * markers + "what ?", "assistant: red")
    with pytest.raises(SequenceError, match="more <image> markers than images|1 of 2 images have no marker"):
        builder.from_messages(turns, [picture()] * images)


def test_every_answer_is_learned_from_and_nothing_else(builder: SequenceBuilder):
    turns = talk("system: count .", "user: what color ?", "assistant: red", "user: count ?", "assistant: blue")
    sequence = builder.from_messages(turns, [])
    end = builder.tokenizer.eos_token
    assert builder.tokenizer.decode(sequence.token_ids[sequence.selected]).replace(" ", "") == f"red{end}blue{end}"


def test_a_conversation_that_begins_with_an_answer_is_refused(builder: SequenceBuilder):
    with pytest.raises(SequenceError, match="begins with an assistant turn"):
        builder.from_messages(talk("assistant: red", "user: what color ?", "assistant: blue"), [])


def test_a_conversation_that_the_chat_template_refuses_is_refused(tiny_model: Path):
    strict = SequenceBuilder(ModelConfig(path=str(tiny_model), min_pixels=3136, max_pixels=3136, max_model_len=256))
    strict.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(SequenceError, match="chat template refuses the conversation: roles must alternate"):
        strict.from_messages(talk("user: what color ?", "user: what ?", "assistant: red"), [])
