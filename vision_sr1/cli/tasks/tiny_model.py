"""A tiny model of a family, made from a configuration: the real architecture at a size that trains on a laptop.

Chat template, processor and special tokens have the family's form, so that transformers' Auto classes and vLLM load the
folder like a downloaded checkpoint.
"""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen2Tokenizer

from vision_sr1.families import TINY_FAMILY, family_of
from vision_sr1.families.family import Family, TinySizes

RESIDUAL_OUTPUTS = ("o_proj", "out_proj", "down_proj")
TAGS = ("<description>", "</description>", "<think>", "</think>", "\\boxed{", "}")
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def make_tiny_model(
    folder: Path,
    texts: Iterable[str],
    *,
    family: str = TINY_FAMILY,
    seed: int = 0,
    hidden_size: int = 128,
    intermediate_size: int = 256,
    layers: int = 4,
    heads: int = 4,
    vision_hidden_size: int = 64,
    vision_layers: int = 2,
    max_model_len: int = 512,
    tie_word_embeddings: bool = True,
) -> None:
    """Writes a randomly initialized model, its tokenizer and its processor to `folder`.

    Args:
        folder: made if missing; loads with `AutoProcessor` and `AutoModelForImageTextToText`.
        texts: what the tokenizer is trained on; any other text still encodes, byte by byte.
        family: of the model, by its type.
        tie_word_embeddings: share input and output embeddings, as the 3B model does; the 7B model does not.
    """
    made = family_of(family)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _train_tokenizer(made, texts, max_model_len)
    made.tiny_processor(tokenizer, made.tiny_pixels).save_pretrained(folder)
    sizes = TinySizes(
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        layers=layers,
        heads=heads,
        vision_hidden_size=vision_hidden_size,
        vision_layers=vision_layers,
        max_model_len=max_model_len,
        tie_word_embeddings=tie_word_embeddings,
    )
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(made.tiny_config(sizes, tokenizer))
    _initialize_for_width(made, model, layers)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    _rename_for_vllm(made, folder / "model.safetensors")
    AutoProcessor.from_pretrained(folder)  # fails here rather than in a service


def _rename_for_vllm(family: Family, file: Path) -> None:
    """Gives weights the names that published checkpoints have, which transformers keeps and vLLM asks for."""
    weights = load_file(file)
    names = {name: family.wire_name(f"model.{name}").removeprefix("model.") for name in weights}
    if any(name != renamed for name, renamed in names.items()):
        save_file({names[name]: weight for name, weight in weights.items()}, file, metadata={"format": "pt"})


def _initialize_for_width(family: Family, model: torch.nn.Module, layers: int) -> None:
    """Draws weight matrices with standard deviation fan_in ** -0.5, residual outputs smaller, embeddings larger.

    Qwen's 0.02 suits widths of thousands. At this width it would take the vision tower ten times as long to be of use;
    and words must stand out of the residual stream from the start, or looking them up is learned late.
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            continue
        deviation = parameter[0].numel() ** -0.5
        if "embed_tokens" in name or "lm_head" in name:
            deviation = family.tiny_embedding_std
        elif not family.is_vision(name) and any(part in name for part in RESIDUAL_OUTPUTS):
            deviation *= (2 * layers) ** -0.5
        torch.nn.init.normal_(parameter, std=deviation)


def _train_tokenizer(family: Family, texts: Iterable[str], max_model_len: int) -> Qwen2Tokenizer:
    """Byte-level BPE in Qwen's form, large enough that every word of `texts` is one token."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2048,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    words = (_strip_tags(text) for text in texts)
    raw.train_from_iterator(itertools.chain(words, 2 * ["system", "user", "assistant"]), trainer)
    trained = json.loads(raw.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=trained["vocab"],
        merges=[tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in trained["merges"]],
        eos_token=family.end_of_turn,
        pad_token=family.special_tokens[0],
        unk_token=family.special_tokens[0],
        model_max_length=max_model_len,
        extra_special_tokens=list(family.special_tokens),
        **family.named_tokens,
    )
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in (*TAGS, *family.plain_tokens)])
    tokenizer.chat_template = family.chat_template
    return tokenizer


def _strip_tags(text: str) -> str:
    for tag in TAGS:
        text = text.replace(tag, " ")
    return text
