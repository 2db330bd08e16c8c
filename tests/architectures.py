"""Architectures of the models that examples/ trains, at their real sizes, without weights."""

from typing import Any

from transformers import Qwen2_5_VLConfig, Qwen3VLConfig

from bench.learner_gpu import TEXT_3B, VISION_3B

IMAGE_TOKEN_ID = 151_655
TEXT_7B = {
    "vocab_size": 152_064,
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}
VISION_7B = {"out_hidden_size": 3584}
QWEN3 = {  # text, vision, whether embeddings are tied
    "4b": (
        {"hidden_size": 2560, "intermediate_size": 9728},
        {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]},
        True,
    ),
    "8b": (
        {"hidden_size": 4096, "intermediate_size": 12_288},
        {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]},
        False,
    ),
}


def qwen25_vl(name: str) -> Qwen2_5_VLConfig:
    """Qwen2.5-VL: 3b or 7b."""
    text, vision = (TEXT_3B, VISION_3B) if name == "3b" else (TEXT_3B | TEXT_7B, VISION_3B | VISION_7B)
    return Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=name == "3b", image_token_id=IMAGE_TOKEN_ID
    )


def qwen3_vl(name: str) -> Qwen3VLConfig:
    """Qwen3-VL: 4b or 8b."""
    sizes, vision, is_tied = QWEN3[name]
    text: dict[str, Any] = {
        **sizes,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151_936,
        "tie_word_embeddings": is_tied,
    }
    vision = vision | {"num_heads": 16, "out_hidden_size": text["hidden_size"], "num_position_embeddings": 2304}
    return Qwen3VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=is_tied, image_token_id=IMAGE_TOKEN_ID
    )
