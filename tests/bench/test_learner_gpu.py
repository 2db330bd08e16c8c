"""What `bench.learner_gpu` measures runs; how fast it is, is for a GPU to say."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from bench.learner_gpu import TEXT_3B, VISION_3B, Sizes, measure, scaled

SMALL = Sizes(prompts=2, group_size=2, image_side=112, response_tokens=16, steps=1)


@pytest.mark.slow
def test_a_step_of_the_architecture_at_a_small_size(single_rank: torch.device):
    text = {**TEXT_3B, "vocab_size": 512, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "rope_parameters": {**TEXT_3B["rope_parameters"], "mrope_section": [2, 3, 3]}}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 4, "out_hidden_size": 64}
    options = ["model.dtype=bfloat16", "learner.zero_stage=2", "learner.gradient_checkpointing=true"]
    pixels = ["model.min_pixels=3136", "model.max_pixels=12544"]
    measured = measure(text, {**vision, "fullatt_block_indexes": [1]}, SMALL, [*options, *pixels])
    assert measured.tokens_per_second > 0
    assert measured.model_tflops > 0


def test_the_sizes_are_those_of_the_3b_model(tiny_model: Path):
    architecture = scaled(AutoConfig.from_pretrained(tiny_model), TEXT_3B, VISION_3B)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(architecture)
    assert (
        sum(p.numel() for p in model.parameters()) == 3_754_622_976
    )  # of the published checkpoint, tied embeddings once


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_of_the_3b_model_fits_one_gpu(single_rank: torch.device):
    options = ["model.dtype=bfloat16", "learner.zero_stage=2", "learner.gradient_checkpointing=true"]
    measured = measure(TEXT_3B, VISION_3B, Sizes(prompts=2), options)
    assert 0 < measured.peak_gib < torch.cuda.get_device_properties(0).total_memory / 2**30
