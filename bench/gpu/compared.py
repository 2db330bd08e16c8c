"""Log-probabilities of an actor's answers by transformers, a sequence at a time."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText

from bench.gpu.findings import Bench, Findings
from learner.model.sequences import SequenceBuilder
from vision_sr1.config import Config
from vision_sr1.families.family import joined
from vision_sr1.v1 import pipeline_pb2 as pb

QUESTIONS = ("what color is the square", "what shape is at the top left", "how many shapes")


@dataclass(frozen=True)
class Prompt:
    """A user's turn, and other images of the same sizes."""

    text: str
    images: list[bytes]
    others: list[bytes]


@dataclass(frozen=True)
class Answer:
    """What an actor wrote to a prompt."""

    prompt: Prompt
    sample: pb.Sample


def prompts(bench: Bench) -> list[Prompt]:
    """With images of several sizes, with two, and with none."""
    sides = [(448, 448), (280, 560), (616, 336)] if bench.is_cuda else [(56, 56)] * 3
    found = [Prompt(QUESTIONS[0], [], [])]
    for number, (side, question) in enumerate(zip(sides, QUESTIONS, strict=True)):
        found.append(Prompt(f"<image>{question}", [_image(side, number)], [_image(side, 100 + number)]))
    found.append(
        Prompt(f"<image><image>{QUESTIONS[2]}", [_image(s, 7) for s in sides[:2]], [_image(s, 9) for s in sides[:2]])
    )
    return found


def compare(
    config: Config, model: str, answers: Sequence[Answer], bench: Bench, findings: Findings, name: str = ""
) -> None:
    """An actor's log-probabilities against those of transformers in the actor's dtype, and of both to float32.

    Args:
        model: a folder with the weights that the actor held.
        name: goes before the figures' names.
    """
    builder = SequenceBuilder(config.model)
    actor = torch.cat([torch.tensor(answer.sample.logprobs) for answer in answers])
    dtype = getattr(torch, config.model.dtype)
    rounded = _logprobs(builder, model, dtype, bench.device, answers)
    exact = _logprobs(builder, model, torch.float32, bench.device, answers)
    other = _logprobs(builder, model, dtype, bench.device, answers, other_images=True)
    has_images = torch.cat([torch.full((len(a.sample.logprobs),), bool(a.prompt.images)) for a in answers])
    difference = (actor - rounded).abs()
    findings.figure(f"{name}tokens compared", len(actor))
    findings.within("logprob_difference", f"{name}mean difference to transformers", float(difference.mean()))
    findings.figure(f"{name}largest difference to transformers", float(difference.max()))
    own, theirs = float((actor - exact).abs().mean()), float((rounded - exact).abs().mean())
    findings.figure(f"{name}error of transformers, to float32", theirs)
    findings.figure(f"{name}error of the actor, to float32", own)
    findings.within("actor_error_ratio", f"{name}the actor's error by that of transformers", own / max(theirs, 1e-6))
    changed = float((actor - other).abs()[has_images].mean())
    shown = float(difference[has_images].mean())
    findings.figure(f"{name}mean difference to transformers with other images", changed)
    findings.holds(
        f"{name}the actor sees its images: {changed:.3g} is more than twice {shown:.3g}", changed > 2 * shown
    )


def _logprobs(
    builder: SequenceBuilder,
    model: str,
    dtype: torch.dtype,
    device: str,
    answers: Sequence[Answer],
    *,
    other_images: bool = False,
) -> Float[Tensor, " tokens"]:
    """Of all answers' tokens, in order."""
    policy: Any = AutoModelForImageTextToText.from_pretrained(model, dtype=dtype).to(device)
    forbidden = builder.family.reserved_token_ids(builder.tokenizer)
    found = []
    for answer in answers:
        ids, response = list(answer.sample.prompt_token_ids), list(answer.sample.response_token_ids)
        images = builder.images(answer.prompt.others if other_images else answer.prompt.images)
        sequence = builder.from_tokens(ids, response, images)
        features = {} if images is None else joined(images.inputs)
        shown = {name: t.to(device, dtype if t.is_floating_point() else None) for name, t in features.items()}
        token_ids = torch.from_numpy(sequence.token_ids).to(device)[None]
        is_image = torch.from_numpy(sequence.is_image).int().to(device)[None]
        with torch.no_grad():
            logits = policy(
                input_ids=token_ids, attention_mask=torch.ones_like(token_ids), mm_token_type_ids=is_image, **shown
            ).logits[0, len(ids) - 1 : -1]
        logits = logits.float()
        logits[:, forbidden] = -torch.inf
        targets = token_ids[0, len(ids) :, None]
        found.append(logits.log_softmax(-1).gather(1, targets)[:, 0].cpu())
    return torch.cat(found)


def _image(side: tuple[int, int], seed: int) -> bytes:
    """Coloured squares at random."""
    squares = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    encoded = io.BytesIO()
    squares.resize(side, Image.Resampling.NEAREST).save(encoded, "PNG")
    return encoded.getvalue()
