"""`vision-sr1 doctor MODEL`: whether a model will train here, found out before any of its weights is read."""

from collections.abc import Iterator

from vision_sr1.cli.checks import Finding
from vision_sr1.cli.planning.estimates import (
    GIB,
    GRADIENT_BYTES,
    OPTIMIZER_BYTES,
    ModelSize,
    has_reference,
    model_size,
)
from vision_sr1.config import Config, ConfigError
from vision_sr1.families import family_of_model
from vision_sr1.models.check import check_cpu_actors, check_length, check_model
from vision_sr1.prompting.chat import Chat, Turn
from vision_sr1.runtime.gpus import actors_use_gpus

IMAGE_SIZES = ((512, 512), (1024, 768), (4032, 3024))  # width and height, pixels
ADAPTER_RANK = 64


def examine_model(config: Config) -> Iterator[Finding]:
    """All findings about `model.path`, under the configured pixels and lengths; the first that fails is the last."""
    path = config.model.path
    try:
        from transformers import AutoProcessor

        check_model(config.model)
        if not actors_use_gpus(config.actors.device):
            check_cpu_actors(config)
        family = family_of_model(path)
        size = model_size(path, config.learner)
        adapters = model_size(path, config.learner.model_copy(update={"lora": _with_adapters(config)}))
        processor = AutoProcessor.from_pretrained(path)
    except ConfigError as error:
        yield Finding("model", "failed", str(error))
        return
    except ImportError as error:
        said = " ".join(str(error).split())
        yield Finding("model", "failed", f"a package that the model needs is not installed here: {said}")
        return
    chat = config.model.chat(processor.tokenizer)
    yield Finding("family", "ok", f"{family.title} ({family.model_type})")
    yield Finding(
        "size",
        "ok",
        f"{_count(size.parameters)} parameters, {_count(size.vision_parameters)} of them for images; "
        f"{size.layers} layers of {size.hidden}",
    )
    yield Finding("memory", "ok", _memory(size, adapters, config))
    yield Finding("parts", "ok", "model, tokenizer, image processor and chat template belong together")
    yield _replies(chat)
    yield _length(config)
    tokens = [family.image_tokens(processor, config.model, height=height, width=width) for width, height in IMAGE_SIZES]
    sizes = ", ".join(f"{w} x {h}: {count:,}" for (w, h), count in zip(IMAGE_SIZES, tokens, strict=True))
    longest = min(config.sampling.max_prompt_tokens, config.model.max_model_len - 1)
    if max(tokens) > longest:
        cure = "lower model.max_pixels, or raise sampling.max_prompt_tokens and model.max_model_len"
        yield Finding("images", "warning", f"tokens of an image: {sizes}; a prompt may have {longest:,}", cure)
    else:
        yield Finding("images", "ok", f"tokens of an image: {sizes}; a prompt may have {longest:,}")


def _with_adapters(config: Config) -> object:
    return config.learner.lora.model_copy(update={"rank": config.learner.lora.rank or ADAPTER_RANK})


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} billion" if number >= 1e8 else f"{number / 1e6:.2f} million"


def _memory(size: ModelSize, adapters: ModelSize, config: Config) -> str:
    weights = 2 * size.parameters / GIB
    reference = weights if has_reference(config.learner) else 0.0
    everything = weights + reference + (GRADIENT_BYTES + OPTIMIZER_BYTES) * size.trainable / GIB
    with_adapters = weights + (GRADIENT_BYTES + OPTIMIZER_BYTES) * adapters.trainable / GIB
    return (
        f"{weights:.1f} GiB of weights in bfloat16; learning takes {everything:.0f} GiB, {with_adapters:.0f} GiB with "
        "adapters, and activations besides; `vision-sr1 plan` divides it over GPUs"
    )


def _length(config: Config) -> Finding:
    try:
        check_length(config.model)
    except ConfigError as error:
        said, _, cure = str(error).partition(": ")
        return Finding("length", "warning", said, cure)
    return Finding("length", "ok", f"sequences of {config.model.max_model_len:,} tokens (model.max_model_len)")


def _replies(chat: Chat) -> Finding:
    """Whether a conversation's earlier replies stay as they were written."""
    turns: list[Turn] = [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in (("user", "one?"), ("assistant", "<think> so </think> 1"), ("user", "two?"))
    ]
    beginning = chat.render(turns[:1], generate=True)
    end = f"a reply ends with {chat.end_of_turn}"
    if not chat.stop_token_ids:
        end += ", which is no special token: actors wait for the end of a text"
    if chat.render(turns, generate=True).startswith(beginning + "<think> so </think> 1"):
        return Finding("chat", "ok", end)
    said = f"{end}; the template rewrites earlier replies, of which supervised training then learns the last alone"
    return Finding("chat", "ok", said)
