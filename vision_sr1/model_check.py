"""Whether the parts of a model folder belong together: found out at the start, not in the first batch."""

from typing import Any

from vision_sr1.config import ConfigError

MODEL_TYPES = ("qwen2_5_vl",)
_IMAGE_TOKEN = "<|image_pad|>"


def check_model(path: str) -> None:
    """Compares a model's configuration with its tokenizer and its image processor; reads no weights.

    Raises:
        ConfigError: a part is missing, of a kind that cannot be trained, or does not fit the others.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(path)
        tokenizer = AutoTokenizer.from_pretrained(path)
        processor = AutoImageProcessor.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"model.path {path!r} cannot be read: {error}; it is to be a folder in Hugging Face format with weights, "
            "tokenizer and image processor, or a hub's name of one"
        ) from error
    if config.model_type not in MODEL_TYPES:
        raise ConfigError(
            f"model.path {path!r} is a model of type {config.model_type!r}; known here: {', '.join(MODEL_TYPES)}"
        )
    problems = [
        f"{what}: the model has {ours}, {whose} {theirs}"
        for what, ours, whose, theirs in _parts(config, tokenizer, processor)
        if ours != theirs
    ]
    rows = config.get_text_config().vocab_size
    if len(tokenizer) > rows:
        problems.append(f"vocabulary: the model has {rows} embeddings, the tokenizer {len(tokenizer)} tokens")
    if problems:
        raise ConfigError(
            f"model.path {path!r}: model and processor do not belong together ({'; '.join(problems)}); take both from "
            "the same model"
        )


def _parts(config: Any, tokenizer: Any, processor: Any) -> list[tuple[str, Any, str, Any]]:
    vision = config.vision_config
    image_token = tokenizer.convert_tokens_to_ids(_IMAGE_TOKEN)
    return [
        ("image token", config.image_token_id, "the tokenizer", image_token),
        ("patch size", vision.patch_size, "the image processor", processor.patch_size),
        ("patches merged", vision.spatial_merge_size, "the image processor", processor.merge_size),
        ("frames per patch", vision.temporal_patch_size, "the image processor", processor.temporal_patch_size),
    ]
