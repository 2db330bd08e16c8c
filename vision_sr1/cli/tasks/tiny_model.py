"""A tiny Qwen2.5-VL made from a configuration: the real architecture at a size that trains on a laptop.

Tokenizer, chat template and processor have Qwen's form and special tokens, so that transformers' Auto classes and
vLLM load the folder like a downloaded checkpoint.
"""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

PIXELS = 56 * 56
EMBEDDING_STD = 0.3
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TAGS = ("<description>", "</description>", "<think>", "</think>", "\\boxed{", "}")
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'text' %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tiny_model(
    folder: Path,
    texts: Iterable[str],
    *,
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
        folder: made if missing; loads with `AutoProcessor` and `Qwen2_5_VLForConditionalGeneration`.
        texts: what the tokenizer is trained on; any other text still encodes, byte by byte.
        tie_word_embeddings: share input and output embeddings, as the 3B model does; the 7B model does not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _train_tokenizer(texts, max_model_len)
    pixels = {"shortest_edge": PIXELS, "longest_edge": PIXELS}
    image_processor = Qwen2VLImageProcessor(size=pixels, patch_size=14, temporal_patch_size=2, merge_size=2)
    video_processor = Qwen2VLVideoProcessor(size=pixels, patch_size=14, temporal_patch_size=2, merge_size=2)
    processor = Qwen2_5_VLProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        video_processor=video_processor,
        chat_template=CHAT_TEMPLATE,
    )
    processor.save_pretrained(folder)

    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "max_position_embeddings": max_model_len,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": _mrope_section(hidden_size // heads),
            },
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "tie_word_embeddings": tie_word_embeddings,
        },
        vision_config={
            "depth": vision_layers,
            "hidden_size": vision_hidden_size,
            "intermediate_size": 2 * vision_hidden_size,
            "num_heads": heads,
            "out_hidden_size": hidden_size,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": list(range(vision_layers)),
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=tie_word_embeddings,
        dtype="float32",
    )
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    _initialize_for_width(model, layers)
    model.generation_config.eos_token_id = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(folder)  # fails here rather than in a service


def _initialize_for_width(model: torch.nn.Module, layers: int) -> None:
    """Draws weight matrices with standard deviation fan_in ** -0.5, residual outputs smaller, embeddings larger.

    Qwen's 0.02 suits widths of thousands. At this width it would take the vision tower ten times as long to be of use;
    and words must stand out of the residual stream from the start, or looking them up is learned late.
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            continue
        deviation = parameter[0].numel() ** -0.5
        if "embed_tokens" in name or "lm_head" in name:
            deviation = EMBEDDING_STD
        elif "language_model" in name and ("o_proj" in name or "down_proj" in name):
            deviation *= (2 * layers) ** -0.5
        torch.nn.init.normal_(parameter, std=deviation)


def _train_tokenizer(texts: Iterable[str], max_model_len: int) -> Qwen2Tokenizer:
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
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        model_max_length=max_model_len,
        extra_special_tokens=list(SPECIAL_TOKENS),
    )
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _strip_tags(text: str) -> str:
    for tag in TAGS:
        text = text.replace(tag, " ")
    return text


def _mrope_section(head_size: int) -> list[int]:
    """Shares of the rotary frequencies for time, height and width, in Qwen's proportions 2 : 3 : 3."""
    half = head_size // 2
    temporal = half // 4
    height = (half - temporal) // 2
    return [temporal, height, half - temporal - height]
