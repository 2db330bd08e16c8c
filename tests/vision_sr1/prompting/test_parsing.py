import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_sr1.prompting.response import TokenPlaces, parse_response

GOOD = rb"<description> a red square </description> <think> so red </think> \boxed{red}"


def test_parts_of_a_well_formed_response():
    parsed = parse_response(GOOD)
    assert parsed.format == "description_think_answer"
    assert parsed.description == "a red square"
    assert parsed.answer == "red"
    spans = (parsed.description_span, parsed.think_span, parsed.answer_span)
    parts = [GOOD[slice(*span)] for span in spans if span is not None]
    assert parts == [b"<description> a red square </description>", b"<think> so red </think>", rb"\boxed{red}"]


@pytest.mark.parametrize(
    "response",
    [
        GOOD + b" and more",
        b"well, " + GOOD,
        GOOD + rb" \boxed{blue}",
        rb"<think> so red </think> \boxed{red}",
        rb"<description> a </description> \boxed{red}",
        rb"<think> b </think> <description> a </description> \boxed{red}",
        rb"<description> a </description> <think> b </think> red",
        rb"<description> a </description> <think> b </think> \boxed{red",
        b"",
    ],
)
def test_anything_else_is_not_well_formed(response: bytes):
    assert parse_response(response).format != "description_think_answer"


def test_a_requerys_response_has_a_format_of_its_own():
    assert parse_response(rb"<think> so red </think> \boxed{red}").format == "think_answer"
    assert parse_response(rb"so <think> so red </think> \boxed{red}").format is None
    assert parse_response(rb"<think> so red </think> red").format is None


@pytest.mark.parametrize("response", [rb"<description> a red square <think> b </think> \boxed{red}", rb"\boxed{red}"])
def test_a_description_that_is_not_closed_is_none(response: bytes):
    """It must not become the whole response: that would show the re-query the answer."""
    parsed = parse_response(response)
    assert parsed.description is None
    assert parsed.description_span is None


def test_white_space_inside_tags_is_ignored_as_in_the_authors_code():
    parsed = parse_response(rb"< description >a< / description ><think >b</ think>\boxed{c}")
    assert parsed.format == "description_think_answer"
    assert parsed.description == "a"


def test_nested_braces_belong_to_the_answer():
    parsed = parse_response(rb"<description>a</description><think>b</think>\boxed{\frac{1}{2}}")
    assert parsed.answer == r"\frac{1}{2}"
    assert parsed.format == "description_think_answer"


@given(st.binary(max_size=60))
def test_any_bytes_can_be_read(response: bytes):
    parse_response(response)


@given(st.lists(st.binary(max_size=4), min_size=1, max_size=12), st.data())
def test_token_span_is_the_smallest_run_of_tokens_that_holds_the_bytes(token_bytes: list[bytes], data: st.DataObject):
    text = b"".join(token_bytes)
    if not text:
        return
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    first, last = TokenPlaces(token_bytes).span((start, end))
    before, held = b"".join(token_bytes[:first]), b"".join(token_bytes[first:last])
    assert len(before) <= start
    assert len(before) + len(held) >= end
    assert len(before) + len(token_bytes[first]) > start
    assert len(before) + len(held) - len(token_bytes[last - 1]) < end
