"""What tokens of different tokenizers stand for."""

from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import AddedToken

from vision_sr1.prompting.response import TokenBytes, parse_response

RESPONSE = "<description> ein Röckchen </description> <think> 2\n</think> \\boxed{ö}"


def tokenizer(vocabulary: list[str], *, special: str, added: tuple[str, ...] = ()) -> Any:
    """One of so many tokens; `special` is special, but not among its named special tokens."""
    everything = {token: index for index, token in enumerate([*vocabulary, *added, special])}
    more = {token: everything[token] for token in (*added, special)}
    return SimpleNamespace(
        all_special_ids=[],
        all_special_tokens=[],
        get_vocab=lambda: everything,
        get_added_vocab=lambda: more,
        added_tokens_decoder={index: AddedToken(token, special=token == special) for token, index in more.items()},
    )


def test_pieces_have_spaces_and_bytes_of_their_own():
    pieces = ["<", ">", "/", "description", "▁ein", "▁R", "<0xC3>", "<0xB6>", "ckchen", "▁", "think", "2", "\n"]
    pieces += ["\\", "boxed", "{", "}", "ö", "▁<"]
    written = [
        *("<", "description", ">", "▁ein", "▁R", "<0xC3>", "<0xB6>", "ckchen", "▁<", "/", "description", ">"),
        *("▁<", "think", ">", "▁", "2", "\n", "<", "/", "think", ">", "▁", "\\", "boxed", "{", "ö", "}"),
        "<end_of_turn>",
    ]
    of = tokenizer(pieces, special="<end_of_turn>")
    text = b"".join(TokenBytes(of).of([of.get_vocab()[token] for token in written]))
    assert text.decode() == RESPONSE
    assert parse_response(text).format == "description_think_answer"


@pytest.mark.parametrize("end", ["<end_of_turn>", "<|im_end|>"])
def test_what_ends_a_turn_is_no_text_whatever_the_tokenizer_calls_it(end: str):
    of = tokenizer(["a", "Ġb"], special=end, added=("<think>",))
    ids = [of.get_vocab()[token] for token in ("<think>", "a", "Ġb", end)]
    assert TokenBytes(of).of(ids) == [b"<think>", b"a", b" b", b""]
