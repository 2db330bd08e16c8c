"""Ids of prompts."""

import pytest

from vision_sr1.pipeline.ids import evaluation_id, evaluation_index, evaluation_split


@pytest.mark.parametrize("attempt", [0, 2])
@pytest.mark.parametrize("split", ["a", "a@b", "a@1/2"])
def test_an_evaluation_prompts_id_says_its_split_and_row(split: str, attempt: int):
    prompt_id = evaluation_id(split, 30, attempt, 7)
    assert (evaluation_split(prompt_id), evaluation_index(prompt_id)) == (split, 7)
