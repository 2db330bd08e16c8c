"""Equal prompts and images are computed once: log-probabilities and gradients are those of separate sequences."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForImageTextToText

from learner.model.attention import Layout
from learner.model.attention_kernels import Kernel, Padded, Plain
from learner.model.packing import pack, prompt_trees
from learner.model.policy import load_policy, rope_positions, token_logprobs
from learner.model.sequences import Sequence, SequenceBuilder
from learner.objective.samples import TrainingSample, by_prompt, tokens_of
from tests.conftest import TINY
from vision_sr1.config import load_config
from vision_sr1.data import Conversations
from vision_sr1.families.family import joined
from vision_sr1.v1 import pipeline_pb2 as pb

CPU = torch.device("cpu")
PROMPTS = [  # which of the pictures, and words
    ([], "what color is the square"),
    ([0], "what color is the square"),
    ([0], "where is the circle"),
    ([], "where is the big circle of them"),
    ([], "where"),
    ([1], "what color is the square"),
    ([0, 1], "which is larger"),
    ([1, 0, 1], "which is larger"),
]
answers = st.lists(st.lists(st.integers(5, 200), min_size=0, max_size=12), min_size=1, max_size=5)


class Side:
    """The policy that packs, transformers' own model with the same weights, and what makes sequences."""

    def __init__(self, model: Path, conversations: Path, dtype: str = "float32") -> None:
        config = load_config(None, [f"model.path={model}", *TINY, f"model.dtype={dtype}"], environment={}).config
        self.builder = SequenceBuilder(config.model)
        self.filler = self.builder.filler()
        rows = Conversations(str(conversations), config.data)
        self.pictures = [image for index in range(8) for image in rows[index].images][:2]
        self.policy: Any = load_policy(config, str(model), forbidden_token_ids=[])
        self.plain: Any = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32)

    def sequence(self, prompt: int, response: list[int]) -> Sequence:
        pictures, words = PROMPTS[prompt]
        images = self.builder.images([self.pictures[index] for index in pictures])
        start, end = self.builder.tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|vision_end|>"])
        ids: list[int] = []
        for image in [] if images is None else images.inputs:
            ids += [start, *image.token_ids, end]
        return self.builder.from_tokens(ids + self.builder.tokenizer(words).input_ids, response, images)

    def separately(self, sequence: Sequence) -> torch.Tensor:
        images = sequence.images
        shown = {} if images is None else joined(images.inputs)
        logits = self.plain(
            input_ids=torch.from_numpy(sequence.token_ids)[None],
            attention_mask=torch.ones(1, len(sequence), dtype=torch.long),
            mm_token_type_ids=torch.from_numpy(sequence.is_image).int()[None],
            **shown,
        ).logits[0]
        targets = torch.from_numpy(sequence.token_ids[sequence.selected])
        logprobs: torch.Tensor = logits.log_softmax(-1)[sequence.selected - 1].gather(1, targets[:, None])[:, 0]
        return logprobs

    def packed(self, sequences: list[Sequence], *, share_prompts: bool = True) -> torch.Tensor:
        rope = partial(rope_positions, self.policy)
        return token_logprobs(self.policy, pack(sequences, self.filler, rope, share_prompts=share_prompts), CPU)


@pytest.fixture(scope="module")
def side(tiny_model: Path, shapes: dict[str, Path]) -> Side:
    return Side(tiny_model, shapes["cold_start"])


def gradient(model: Any) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("kernel", [Padded, Plain])
@settings(max_examples=8)
@given(
    groups=st.lists(st.tuples(st.integers(0, len(PROMPTS) - 1), answers), min_size=1, max_size=4), order=st.randoms()
)
def test_log_probabilities_and_gradients_are_those_of_separate_sequences(
    side: Side, groups: list[tuple[int, list[list[int]]]], order: Any, kernel: Callable[[], Kernel]
):
    sequences = [side.sequence(prompt, response) for prompt, responses in groups for response in responses]
    order.shuffle(sequences)
    with patch("learner.model.attention.kernel_for", lambda _: kernel()):
        packed, separate = side.packed(sequences), torch.cat([side.separately(s) for s in sequences])
        assert torch.allclose(packed, separate, atol=1e-5)
        weights = torch.linspace(-1, 1, len(packed))
        (packed * weights).sum().backward()
    (separate * weights).sum().backward()
    ours, theirs = gradient(side.policy), gradient(side.plain)
    scale = max(float(value.norm()) for value in theirs.values())
    for name, expected in theirs.items():
        assert float((ours[name] - expected).norm()) <= 1e-5 * max(float(expected.norm()), 0.01 * scale, 0.1), name


@pytest.mark.parametrize("kernel", [Padded, Plain])
def test_in_bfloat16_they_are_as_near_to_float32_as_without_sharing(
    tiny_model: Path, shapes: dict[str, Path], side: Side, kernel: Callable[[], Kernel]
):
    half = Side(tiny_model, shapes["cold_start"], "bfloat16")
    rng = np.random.default_rng(0)
    sequences = [side.sequence(prompt, rng.integers(5, 200, 12).tolist()) for prompt in (1, 7, 0) for _ in range(6)]
    weights = torch.from_numpy(rng.choice([-1.0, 1.0], size=12 * len(sequences)).astype(np.float32))

    def both(model: Side, *, share_prompts: bool) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs = model.packed(sequences, share_prompts=share_prompts).float()
        (logprobs * weights).mean().backward()
        return logprobs.detach(), torch.cat([g.float().flatten() for g in gradient(model.policy).values()])

    with patch("learner.model.attention.kernel_for", lambda _: kernel()):
        exact, *found = [both(side, share_prompts=False), *(both(half, share_prompts=s) for s in (True, False))]
    for right, shared, plain in zip(exact, *found, strict=True):
        deviations = [float((value - right).norm() / right.norm()) for value in (shared, plain)]
        assert deviations[0] <= 1.2 * deviations[1], deviations
        assert deviations[0] > 0, "computed in bfloat16"


def test_a_pack_holds_each_prompt_and_image_once(side: Side):
    sequences = [side.sequence(prompt, [7, 8, 9]) for prompt in (1, 2, 6, 1, 0, 1) for _ in range(4)]
    packed = pack(sequences, side.filler, partial(rope_positions, side.policy))
    prompts = {prompt: side.sequence(prompt, []) for prompt in (0, 1, 2, 6)}
    assert packed.input_ids.shape[1] == sum(map(len, prompts.values())) + 3 * len(sequences)
    assert len(packed.images["image_grid_thw"]) == 2
    assert packed.shown == [0, 0, 0, 1]
    plain = pack(sequences, side.filler, partial(rope_positions, side.policy), share_prompts=False)
    assert plain.input_ids.shape[1] == sum(map(len, sequences))


def test_a_conversation_with_an_image_after_its_first_reply_shares_nothing(side: Side):
    sequence = side.sequence(1, [7, 8])
    late = Sequence(sequence.token_ids, sequence.is_image[::-1].copy(), sequence.selected[:0] + 1, sequence.images)
    assert prompt_trees([sequence, sequence, late, late]) == [[0, 1], [2], [3]]


TREES = st.lists(st.tuples(st.integers(1, 14), st.lists(st.integers(1, 9), max_size=4)), min_size=1, max_size=4)


@given(TREES, st.data())
def test_a_token_attends_to_what_its_layer_and_its_image_allow(trees: list[tuple[int, list[int]]], data: st.DataObject):
    """Every pair once, against plain rules: its branch and its prompt, within the window; its image whole."""
    window = data.draw(st.none() | st.integers(1, 12))
    images: list[range] = []
    before: list[list[int]] = []  # by token, those of its sequence up to itself
    for prompt, branches in trees:
        start = len(before)
        cuts = sorted(data.draw(st.lists(st.integers(start, start + prompt), min_size=2, max_size=2)))
        images += [range(*cuts)] * (cuts[1] - cuts[0] <= (window or prompt))
        for length in (prompt, *branches):
            seen = [] if len(before) == start else list(range(start, start + prompt))
            begin = len(before)
            before += [[*seen, *range(begin, begin + place + 1)] for place in range(length)]
    layout = Layout.of(trees, images, window)
    assert (layout.sliding is None) == (window is None)
    for found_in, last in ((layout, None), (layout.sliding, window)):
        if found_in is None:
            continue
        allowed = {(query, key) for query, keys in enumerate(before) for key in (keys[-last:] if last else keys)}
        allowed |= {(query, key) for image in images for query in image for key in image if key > query}
        found: list[tuple[int, int]] = []
        for part in (*found_in.own, *found_in.others):
            assert len(part.query_places.unique()) == len(part.query_places), "a sum over a part would lose one of them"
            rows = zip(part.queries, part.is_query, part.keys, part.is_key, strict=True)
            for queries, is_query, keys, is_key in rows:
                for place, query in enumerate(queries[is_query].tolist()):
                    found += [(query, key) for key in keys[is_key].tolist()[: place + 1 if part.is_causal else None]]
        assert len(found) == len(set(found))
        assert set(found) == allowed


def training_sample(prompt: int, length: int) -> TrainingSample:
    none: Any = np.zeros(length)
    sample = pb.Sample(prompt_token_ids=[prompt] * (3 + prompt), response_token_ids=[9] * length)
    return TrainingSample(sample, (), none.astype(np.float32), none.astype(np.int64), {}, {}, {})


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 20)), max_size=30), st.integers(10, 60))
def test_samples_of_a_prompt_stay_together_as_far_as_they_fit(drawn: list[tuple[int, int]], most: int):
    samples = [training_sample(prompt, length) for prompt, length in drawn]
    bundles = by_prompt(samples, most)
    assert sorted(id(sample) for bundle in bundles for sample in bundle) == sorted(map(id, samples))
    assert all(tokens_of(bundle) <= most or len(bundle) == 1 for bundle in bundles)
    for bundle in bundles:
        assert len({tuple(sample.sample.prompt_token_ids) for sample in bundle}) == 1
    whole = by_prompt(samples, 10_000)
    assert len(whole) == len({prompt for prompt, _ in drawn})
