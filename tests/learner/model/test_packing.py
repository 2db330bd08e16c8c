"""Packed log-probabilities equal those of the sequences one by one, by transformers' own forward pass."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForImageTextToText

from learner.model.packing import balance, pack, split_by_budget
from learner.model.policy import load_policy, rope_positions, token_logprobs, token_logprobs_and_entropies
from learner.model.sequences import Sequence, SequenceBuilder, SequenceError
from tests.conftest import TINY
from vision_sr1.config import Config, load_config
from vision_sr1.data import Conversations
from vision_sr1.families.family import joined

CPU = torch.device("cpu")


def config_for(model: Path) -> Config:
    return load_config(None, [f"model.path={model}", "learner.logits_chunk_tokens=7", *TINY], environment={}).config


@pytest.fixture(scope="module")
def sequences(tiny_model: Path, shapes: dict[str, Path]) -> list[Sequence]:
    config = config_for(tiny_model)
    builder = SequenceBuilder(config.model)
    rows = Conversations(str(shapes["cold_start"]), config.data)
    return [builder.from_messages(rows[i].messages, rows[i].images) for i in range(12)]


def logits_of(model: Any, s: Sequence) -> torch.Tensor:
    """That predict the selected tokens, by transformers' own forward pass."""
    images = {} if s.images is None else joined(s.images.inputs)
    every = model(
        input_ids=torch.from_numpy(s.token_ids)[None],
        attention_mask=torch.ones(1, len(s), dtype=torch.long),
        mm_token_type_ids=torch.from_numpy(s.is_image).int()[None],
        **images,
    ).logits[0]
    return every[s.selected - 1]


def one_by_one(path: Path, sequences: list[Sequence], temperature: float = 1.0) -> list[torch.Tensor]:
    model = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)
    results = []
    for s in sequences:
        with torch.no_grad():
            logits = logits_of(model, s)
        targets = torch.from_numpy(s.token_ids[s.selected])
        results.append((logits / temperature).log_softmax(-1).gather(1, targets[:, None])[:, 0])
    return results


@pytest.mark.parametrize("model", ["tiny_model", "untied_model"])
def test_packed_logprobs_equal_single_ones(model: str, sequences: list[Sequence], request: pytest.FixtureRequest):
    path = request.getfixturevalue(model)
    config = config_for(path)
    policy = load_policy(config, str(path), forbidden_token_ids=[])
    filler = SequenceBuilder(config.model).filler()
    expected = one_by_one(path, sequences)
    assert {s.images is None for s in sequences} == {True, False}
    for members in split_by_budget([len(s) for s in sequences], 150):
        packed = pack([sequences[i] for i in members], filler, partial(rope_positions, policy))
        with torch.no_grad():
            logprobs = token_logprobs(policy, packed, CPU)
        for place, index in enumerate(members):
            assert torch.allclose(logprobs[packed.indices == place], expected[index], atol=1e-5)


def test_logprobs_are_those_of_the_sampling_temperature(tiny_model: Path, sequences: list[Sequence]):
    config = config_for(tiny_model)
    policy = load_policy(config, str(tiny_model), forbidden_token_ids=[], temperature=0.5)
    packed = pack(sequences[:3], SequenceBuilder(config.model).filler(), partial(rope_positions, policy))
    with torch.no_grad():
        logprobs = token_logprobs(policy, packed, CPU)
    assert torch.allclose(logprobs, torch.cat(one_by_one(tiny_model, sequences[:3], temperature=0.5)), atol=1e-5)


@pytest.mark.parametrize("differentiable", [False, True])
def test_entropies_are_those_of_the_distribution_that_tokens_are_sampled_from(
    tiny_model: Path, sequences: list[Sequence], differentiable: bool
):
    """Without forbidden tokens, at the temperature; with their gradient where it is asked for."""
    forbidden = [3, 5]
    policy = load_policy(config_for(tiny_model), str(tiny_model), forbidden_token_ids=forbidden, temperature=0.7)
    plain = AutoModelForImageTextToText.from_pretrained(tiny_model, dtype=torch.float32)
    packed = pack(
        [sequences[0]], SequenceBuilder(config_for(tiny_model).model).filler(), partial(rope_positions, policy)
    )
    logprobs, entropies = token_logprobs_and_entropies(policy, packed, CPU, differentiable=differentiable)
    logits = logits_of(plain, sequences[0]) / 0.7
    allowed = [token for token in range(logits.shape[1]) if token not in forbidden]
    every = logits[:, allowed].log_softmax(-1)
    expected = -(every.exp() * every).sum(-1)
    torch.testing.assert_close(entropies, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logprobs, token_logprobs(policy, packed, CPU), rtol=0, atol=0)
    assert entropies.requires_grad == differentiable
    (entropies if differentiable else logprobs).sum().backward()
    targets = torch.tensor([allowed.index(token) for token in packed.targets.tolist()])
    (expected if differentiable else every.gather(1, targets[:, None])).sum().backward()
    gradients = dict(plain.named_parameters())
    learned = [(name, parameter.grad) for name, parameter in policy.named_parameters() if parameter.grad is not None]
    assert len(learned) > 20
    for name, gradient in learned:
        right = gradients[name].grad
        right = torch.zeros_like(gradient) if right is None else right  # the tower sees the filler of an imageless pack
        assert float((gradient - right).norm()) <= 1e-3 * float(right.norm()) + 1e-5, name


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation returns while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return result


@pytest.mark.parametrize("entropies", ["none", "detached", "differentiable"])
def test_logits_of_one_chunk_exist_at_a_time_forward_and_backward(tiny_model: Path, entropies: str):
    config = load_config(None, [f"model.path={tiny_model}", "learner.logits_chunk_tokens=16", *TINY]).config
    policy: Any = load_policy(config, str(tiny_model), forbidden_token_ids=[])
    head = policy.get_output_embeddings()
    vocabulary, width, tokens = 4096, head.weight.shape[1], 400
    head.weight = torch.nn.Parameter(torch.randn(vocabulary, width) * 0.1)
    hidden = torch.randn(tokens, width, requires_grad=True)
    targets = torch.randint(0, vocabulary, (tokens,))
    with LargestTensor() as largest:
        predicted = head(hidden, targets, entropies)
        logprobs = predicted if entropies == "none" else predicted[0]
        (in_chunks,) = torch.autograd.grad(logprobs.sum(), hidden)
    assert largest.elements <= max(16 * vocabulary, vocabulary * width)
    whole = (hidden @ head.weight.T).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    assert torch.allclose(logprobs, whole, atol=1e-5)
    assert torch.allclose(in_chunks, torch.autograd.grad(whole.sum(), hidden)[0], atol=1e-5)


def test_forbidden_tokens_have_no_probability(tiny_model: Path, sequences: list[Sequence]):
    config = config_for(tiny_model)
    filler = SequenceBuilder(config.model).filler()
    free = load_policy(config, str(tiny_model), forbidden_token_ids=[])
    packed = pack(sequences[:2], filler, partial(rope_positions, free))
    forbidden = [int(packed.targets[0]), 3, 5]
    limited = load_policy(config, str(tiny_model), forbidden_token_ids=forbidden)
    with torch.no_grad():
        before, after = (token_logprobs(model, packed, CPU) for model in (free, limited))
    hit = torch.isin(packed.targets, torch.tensor(forbidden))
    assert torch.isneginf(after[hit]).all()
    assert (after[~hit] >= before[~hit] - 1e-6).all()


def test_a_micro_batch_without_tokens_still_reaches_every_parameter(tiny_model: Path):
    """Otherwise ZeRO's collectives would not match between ranks."""
    config = config_for(tiny_model)
    policy = load_policy(config, str(tiny_model), forbidden_token_ids=[])
    packed = pack([], SequenceBuilder(config.model).filler(), partial(rope_positions, policy))
    (token_logprobs(policy, packed, CPU).sum() * 0.0).backward()
    assert [name for name, p in policy.named_parameters() if p.grad is None] == []


def test_a_pack_that_was_moved_ahead_gives_the_same_logprobs(tiny_model: Path, sequences: list[Sequence]):
    """With pixels rounded to the model's dtype as the model would round them, and all else as it was."""
    options = [f"model.path={tiny_model}", *TINY, "model.dtype=bfloat16"]
    config = load_config(None, options, environment={}).config
    policy = load_policy(config, str(tiny_model), forbidden_token_ids=[])
    packed = pack(sequences, SequenceBuilder(config.model).filler(), partial(rope_positions, policy))
    moved = packed.to(CPU, torch.bfloat16)
    assert packed.images["pixel_values"].dtype == torch.float32
    assert moved.images["pixel_values"].dtype == torch.bfloat16
    assert moved.images["image_grid_thw"].dtype == packed.images["image_grid_thw"].dtype
    assert torch.equal(token_logprobs(policy, moved, CPU), token_logprobs(policy, packed, CPU))


def test_an_image_placeholder_in_a_response_is_refused(tiny_model: Path):
    builder = SequenceBuilder(config_for(tiny_model).model)
    image_token = builder.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    with pytest.raises(SequenceError, match="image placeholder"):
        builder.from_tokens([1, 2], [3, image_token], None)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 4), st.integers(50, 120))
def test_every_sequence_is_in_one_micro_batch_of_one_rank(lengths: list[int], ranks: int, budget: int):
    shares = balance([float(length) for length in lengths], ranks)
    assert sorted(i for share in shares for i in share) == list(range(len(lengths)))
    loads = [sum(lengths[i] for i in share) for share in shares]
    assert max(loads) - min(loads) <= max(lengths)
    cuts = split_by_budget(lengths, budget)
    assert sorted(i for cut in cuts for i in cut) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in cut) <= budget for cut in cuts)
