"""A family's tiny model in the learner, and as transformers itself computes it."""

import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from learner.model.masking import Mask
from learner.model.packing import pack
from learner.model.policy import layout_of, load_policy, rope_positions, token_logprobs
from learner.model.sequences import Sequence, SequenceBuilder
from tests.conftest import TINY
from vision_sr1.config import Config, load_config

CPU = torch.device("cpu")
OF_TOKENS = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
PROMPTS = [  # which of the pictures, and words
    ([], "what color is the square"),
    ([0], "what color is the square"),
    ([0], "where is the circle"),
    ([1], "what color is the square"),
    ([0, 1], "which is larger"),
    ([1, 0, 1], "which is larger of them"),
]


def picture(width: int, height: int, seed: int) -> bytes:
    """A PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return png(Image.fromarray(pixels))


def png(image: Image.Image) -> bytes:
    """An encoded image."""
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


PICTURES = [picture(60, 60, 0), picture(150, 50, 1)]


def processor_inputs(builder: SequenceBuilder, config: Config, text: str, images: list[bytes]) -> Any:
    """A user's turn as the model's own processor prepares it for transformers."""
    pictures = [Image.open(io.BytesIO(encoded)).convert("RGB") for encoded in images]
    return builder.processor(
        text=[config.model.chat(builder.tokenizer).user_turn(text, len(images))],
        images=[pictures] if pictures else None,
        images_kwargs=builder.family.processor_settings(config.model),
        text_kwargs={"add_special_tokens": False},
        return_tensors="pt",
    )


def append(inputs: Any, tokens: list[int]) -> None:
    """Puts tokens of text behind a prompt."""
    for name in OF_TOKENS:
        if name in inputs:
            more = tokens if name == "input_ids" else [int(name == "attention_mask")] * len(tokens)
            inputs[name] = torch.cat([inputs[name], torch.tensor([more], dtype=inputs[name].dtype)], dim=1)


class Side:
    """The policy that packs, transformers' own model with the same weights, and what makes sequences."""

    def __init__(self, model: Path, *settings: str) -> None:
        config = load_config(None, [f"model.path={model}", *TINY, *settings], environment={}).config
        self.config = config
        self.builder = SequenceBuilder(config.model)
        self.policy: Any = load_policy(config, str(model), forbidden_token_ids=[])
        self.plain: Any = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32)

    def inputs(self, prompt: int, pictures: list[bytes] = PICTURES) -> Any:
        """A prompt as the model's own processor prepares it."""
        shown, words = PROMPTS[prompt]
        return processor_inputs(self.builder, self.config, words, [pictures[index] for index in shown])

    def sequence(self, prompt: int, response: list[int], mask: Mask | None = None) -> Sequence:
        """As the learner has it."""
        images = self.builder.images([PICTURES[index] for index in PROMPTS[prompt][0]], mask)
        return self.builder.from_tokens(self.inputs(prompt).input_ids[0].tolist(), response, images)

    def separately(self, prompt: int, response: list[int], pictures: list[bytes] = PICTURES) -> torch.Tensor:
        """Log-probabilities of the response by transformers."""
        inputs = self.inputs(prompt, pictures)
        length = inputs.input_ids.shape[1]
        append(inputs, response)
        logits = self.plain(**inputs).logits[0, length - 1 : -1]
        found: torch.Tensor = logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]
        return found

    def packed(self, sequences: list[Sequence], *, share_prompts: bool = True) -> torch.Tensor:
        """Log-probabilities of all responses by the learner's policy, in one pack."""
        rope = partial(rope_positions, self.policy)
        packed = pack(
            sequences,
            self.builder.filler(),
            rope,
            share_prompts=share_prompts,
            layout_of=partial(layout_of, self.policy),
        )
        return token_logprobs(self.policy, packed, CPU)
