"""Each family that is known: its packs compute what its sequences would one by one, and what is counted is right."""

import hashlib
import io
import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText
from typer.testing import CliRunner

from learner.model.attention import Layout, Trees
from learner.model.flops import ModelFlops
from learner.model.masking import Mask
from learner.model.packing import pack
from learner.model.policy import choose_trainable, layout_of, load_policy, rope_positions, token_logprobs
from tests.conftest import Once
from tests.families.conftest import tiny_model_of
from tests.families.side import CPU, PICTURES, PROMPTS, Side, picture, png
from vision_sr1.cli.main import app
from vision_sr1.cli.planning.estimates import model_size
from vision_sr1.config import ConfigError, LoraConfig, ModelConfig
from vision_sr1.data.lengths import PromptLengths
from vision_sr1.families import family_of, known_families
from vision_sr1.models.check import check_model


@pytest.mark.parametrize("share_prompts", [True, False])
def test_log_probabilities_and_gradients_of_a_pack_are_those_of_separate_sequences(side: Side, *, share_prompts: bool):
    rng = np.random.default_rng(0)
    answers = [
        (prompt, rng.integers(5, 200, int(length)).tolist())
        for prompt in range(len(PROMPTS))
        for length in rng.integers(1, 40, size=3)
    ]
    rng.shuffle(answers)
    packed = side.packed([side.sequence(*answer) for answer in answers], share_prompts=share_prompts)
    separate = torch.cat([side.separately(*answer) for answer in answers])
    assert torch.allclose(packed, separate, atol=2e-5)
    weights = torch.linspace(-1, 1, len(packed))
    (packed * weights).sum().backward()
    (separate * weights).sum().backward()
    ours, theirs = (dict(model.named_parameters()) for model in (side.policy, side.plain))
    # In a linear layer each token's share goes through the sums of all that follow it.
    tolerance = 5e-5 if side.builder.family.linear_attention else 2e-5
    scale = max(float(value.grad.norm()) for value in theirs.values() if value.grad is not None)
    for name, expected in theirs.items():
        if expected.grad is not None:
            difference = float((ours[name].grad - expected.grad).norm())
            assert difference <= tolerance * max(float(expected.grad.norm()), 0.01 * scale), name
    for model in (side.policy, side.plain):
        model.zero_grad()


def test_without_packed_delta_nets_sequences_would_see_one_another(once: Once, monkeypatch: pytest.MonkeyPatch):
    model = tiny_model_of(once, "qwen3_5")
    sequences = [(prompt, list(range(30, 40))) for prompt in range(3)]
    deviations = []
    for is_packed in (True, False):
        if not is_packed:
            monkeypatch.setattr("learner.model.policy.use_packed_delta_nets", lambda *_: None)
        side = Side(model)
        packed = side.packed([side.sequence(*sequence) for sequence in sequences])
        separate = torch.cat([side.separately(*sequence) for sequence in sequences])
        deviations.append((packed - separate).abs().max().item())
    assert deviations[0] < 2e-5
    assert deviations[1] > 0.01


@pytest.mark.parametrize("lost", ["images", "window"])
def test_without_its_images_or_its_window_a_layout_computes_something_else(once: Once, lost: str):
    side = Side(tiny_model_of(once, "gemma3"))
    sequences = [side.sequence(prompt, list(range(30, 60))) for prompt in (1, 4)]
    right = side.packed(sequences)

    def wrong(trees: Trees, images: list[range]) -> Layout:
        window = side.policy.config.text_config.sliding_window
        return Layout.of(trees, [] if lost == "images" else images, 1000 if lost == "window" else window)

    packed = pack(sequences, side.builder.filler(), partial(rope_positions, side.policy), layout_of=wrong)
    assert (token_logprobs(side.policy, packed, CPU) - right).abs().max() > 1e-3


def test_a_window_that_a_checkpoint_switches_on_is_kept_to(once: Once, tmp_path: Path):
    shutil.copytree(tiny_model_of(once, "qwen2_5_vl"), tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text())
    kinds = ["full_attention", *["sliding_attention"] * (config["text_config"]["num_hidden_layers"] - 1)]
    config["text_config"] |= {"use_sliding_window": True, "sliding_window": 8, "layer_types": kinds}
    file.write_text(json.dumps(config))
    side = Side(tmp_path / "model")
    answers = [(prompt, list(range(30, 50))) for prompt in (1, 1, 4)]
    packed = side.packed([side.sequence(*answer) for answer in answers])
    assert torch.allclose(packed, torch.cat([side.separately(*answer) for answer in answers]), atol=2e-5)
    whole = Side(tiny_model_of(once, "qwen2_5_vl"))
    assert (packed - whole.packed([whole.sequence(*answer) for answer in answers])).abs().max() > 1e-3


def test_every_image_changes_what_follows_it(side: Side):
    response = list(range(20, 30))
    one, other = (side.packed([side.sequence(prompt, response)]) for prompt in (1, 3))
    assert (one - other).abs().max() > 1e-3


def test_masked_images_are_what_the_model_s_own_processor_makes_of_masked_pictures(side: Side):
    mask, masked = Mask(0.5, "0/0"), []
    for encoded in PICTURES:
        plain = Image.open(io.BytesIO(encoded))
        tokens = PromptLengths(side.config, side.builder.processor).image_tokens(encoded)
        masked.append(png(mask(plain, hashlib.sha256(encoded).hexdigest(), tokens)))
    answers = [(prompt, list(range(20, 20 + length))) for prompt, length in ((2, 9), (2, 5), (4, 7), (5, 8))]
    packed = side.packed([side.sequence(*answer, mask) for answer in answers])
    assert torch.allclose(packed, torch.cat([side.separately(*answer, masked) for answer in answers]), atol=2e-5)
    assert (packed - side.packed([side.sequence(*answer) for answer in answers])).abs().max() > 1e-3


def test_tokens_are_counted_without_decoding_an_image(side: Side):
    lengths = PromptLengths(side.config, side.builder.processor)
    for width, height in [(60, 60), (150, 50), (40, 400), (500, 33), (28, 28), (1000, 1000)]:
        image = picture(width, height, 0)
        prepared = side.builder.images([image])
        assert prepared is not None
        assert lengths.image_tokens(image) == len(prepared.inputs[0].token_ids)


def test_a_conversation_has_the_tokens_of_the_model_s_own_processor(side: Side):
    question = "where is the <image> circle of <image> them"
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": "left"}]
    sequence = side.builder.from_messages(messages, PICTURES)
    turns = [{"role": "user", "content": []}]
    for index, words in enumerate(question.split("<image>")):
        turns[0]["content"] += [{"type": "image"}] * (index > 0) + [{"type": "text", "text": words}]  # type: ignore[operator]
    expected = side.builder.processor(
        text=[side.builder.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)],
        images=[[Image.open(io.BytesIO(encoded)).convert("RGB") for encoded in PICTURES]],
        images_kwargs=side.builder.family.processor_settings(side.config.model),
        text_kwargs={"add_special_tokens": False},
    ).input_ids[0]
    assert sequence.token_ids[: sequence.prompt_length].tolist() == list(expected)
    reply = side.builder.tokenizer.decode(sequence.token_ids[sequence.selected])
    assert reply.strip().startswith("left")
    assert reply.endswith(side.builder.family.end_of_turn)


def test_flops_are_what_torch_counts(side: Side):
    response = list(range(20, 80))
    sequence = side.sequence(4, response)
    packed = pack(
        [sequence],
        side.builder.filler(),
        partial(rope_positions, side.policy),
        layout_of=partial(layout_of, side.policy),
    )
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        token_logprobs(side.policy, packed, CPU)
    prompt = sequence.token_ids[: sequence.prompt_length].tolist()
    per_pass = ModelFlops(side.policy, forward_passes=0)([(prompt, [len(response)])]) / 3
    assert per_pass == pytest.approx(counter.get_total_flops(), rel=0.2)


def test_its_parts_belong_together_and_it_can_be_planned(side: Side, family_model: Path):
    check_model(ModelConfig(path=str(family_model)))
    size = model_size(str(family_model), side.config.learner)
    assert size.parameters == sum(p.numel() for p in side.policy.parameters())
    assert size.kv_bytes > 0
    frozen = model_size(str(family_model), side.config.learner.model_copy(update={"freeze_vision": True}))
    assert 0.1 < frozen.trainable / size.trainable < 1


def test_the_doctor_says_of_what_family_and_size_it_is(side: Side, family_model: Path):
    done = CliRunner().invoke(app, ["doctor", str(family_model), "model.max_pixels=3136", "model.min_pixels=3136"])
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert f"{side.builder.family.title} ({side.builder.family.model_type})" in said
    assert re.search(r"\d\.\d\d million parameters, \d\.\d\d million of them for images", said)
    assert "belong together" in said
    assert side.builder.family.end_of_turn in said
    assert re.search(r"4032 x 3024: \d", said)


def test_its_vision_tower_can_be_frozen_and_adapters_are_put_beside_its_language_model(side: Side, family_model: Path):
    frozen = load_policy(side.config, str(family_model), forbidden_token_ids=[])
    choose_trainable(frozen, LoraConfig(), freeze_vision=True)
    family = family_of(frozen.config.model_type)  # type: ignore[union-attr]
    for name, parameter in frozen.named_parameters():
        assert parameter.requires_grad != family.is_vision(name), name
    adapted = load_policy(side.config, str(family_model), forbidden_token_ids=[])
    choose_trainable(adapted, LoraConfig(rank=4), freeze_vision=False)
    layers = {name.split(".lora_")[0] for name, p in adapted.named_parameters() if p.requires_grad}
    assert len(layers) >= 4 * 7 - 4
    assert not [name for name in layers if family.is_vision(name)]


def test_reserved_tokens_are_known_to_the_tokenizer(side: Side):
    family, tokenizer = side.builder.family, side.builder.tokenizer
    assert len(family.reserved_token_ids(tokenizer)) == len(family.reserved_tokens)
    assert tokenizer.convert_tokens_to_ids(family.image_token) in family.reserved_token_ids(tokenizer)


def test_an_export_loads(side: Side, family_model: Path, tmp_path: Path):
    from learner.checkpoints.hf_folder import write_export

    weights = {name: parameter.detach().clone() for name, parameter in side.policy.named_parameters()}
    write_export(side.policy, side.builder.processor, weights, tmp_path)
    loaded = dict(AutoModelForImageTextToText.from_pretrained(tmp_path).named_parameters())
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weight) for name, weight in weights.items())
    check_model(ModelConfig(path=str(tmp_path)))


@pytest.mark.parametrize("model_type", ["qwen3_vl_moe", "qwen3_5_moe", "no_such_family"])
def test_another_type_is_refused_with_those_that_are_known(model_type: str):
    with pytest.raises(ConfigError, match="known here: ") as refused:
        family_of(model_type)
    assert all(name in str(refused.value) for name in known_families())
    assert ("experts" in str(refused.value)) == model_type.endswith("_moe")
