"""Models for the steps: the tests' tiny one, and a 3B one cut to 12 layers, with random weights."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from bench.gpu.findings import Bench
from bench.learner_gpu import TEXT_3B, VISION_3B, scaled
from vision_sr1.cli.tasks.distributions import TASKS, corpus
from vision_sr1.cli.tasks.tiny_model import make_tiny_model

LAYERS = 12  # of 36: with optimizer, reference and activations on 80 GB, under any ZeRO stage
TEXT_12: dict[str, Any] = {**TEXT_3B, "num_hidden_layers": LAYERS}
SMALL_TEXT: dict[str, Any] = {
    **TEXT_3B,
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "rope_parameters": {**TEXT_3B["rope_parameters"], "mrope_section": [2, 3, 3]},
}
SMALL_VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_heads": 4,
    "out_hidden_size": 64,
    "fullatt_block_indexes": [1],
}
SMALL_PIXELS = ["model.max_model_len=256", "model.min_pixels=3136", "model.max_pixels=3136"]
LARGE_PIXELS = ["model.max_model_len=2048", "model.min_pixels=3136", "model.max_pixels=401408"]
LOGIT_SPREAD = 2.5  # standard deviation of a token's logits


def sizes(bench: Bench) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of language model and vision tower, for `scaled`."""
    return (TEXT_12, VISION_3B) if bench.is_cuda else (SMALL_TEXT, SMALL_VISION)


def pixels(bench: Bench) -> list[str]:
    """Overrides for lengths and images that suit the device."""
    return LARGE_PIXELS if bench.is_cuda else SMALL_PIXELS


def tiny_model(folder: Path) -> Path:
    """A model of a million parameters whose tokenizer knows the words of the shapes task."""
    make_tiny_model(folder, corpus(TASKS["shapes"], rows=300))
    return folder


def cut_model(folder: Path, bench: Bench) -> Path:
    """The 3B model with 12 layers on a GPU, on the CPU the tiny model; with logits as unequal as a trained model's."""
    tiny_model(folder)
    if bench.is_cuda:
        architecture = scaled(AutoConfig.from_pretrained(folder), *sizes(bench))
        torch.manual_seed(0)
        with torch.device("cuda"):
            model = AutoModelForImageTextToText.from_config(architecture, dtype=torch.bfloat16)
        model.generation_config.eos_token_id = None
    else:
        model = AutoModelForImageTextToText.from_pretrained(folder)
    embeddings = model.get_input_embeddings().weight
    torch.nn.init.normal_(embeddings, std=LOGIT_SPREAD * embeddings.shape[1] ** -0.5)
    model.save_pretrained(folder)
    del model, embeddings
    if bench.is_cuda:
        torch.cuda.empty_cache()  # for the actor that comes
    return folder
