"""The data of a micro-batch's response tokens, laid end to end like the sequences of its pack."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from learner.objective.samples import PARTS, Part, TrainingSample
from vision_sr1.config import ComponentConfig


@dataclass
class MicroBatch:
    """Samples that one rank packs together; there may be none.

    Attributes:
        samples: in the order of the pack.
        behaviour_logprobs: under the policy that sampled.
        staleness: versions between the policy that sampled and the one that learns.
        masks: by component name, the tokens that it trains.
        advantages: by component name, those of the tokens' rollouts.
        trained: tokens that any component trains.
        sees_images: tokens of answers to prompts with images.
        parts: by name, the tokens of each of a response's parts.
        proximal_logprobs: by the trainer before the batch; None where they are not computed.
    """

    samples: list[TrainingSample]
    behaviour_logprobs: Float[Tensor, " selected"]
    staleness: Int[Tensor, " selected"]
    masks: dict[str, Bool[Tensor, " selected"]]
    advantages: dict[str, Float[Tensor, " selected"]]
    trained: Bool[Tensor, " selected"]
    sees_images: Bool[Tensor, " selected"]
    parts: dict[Part, Bool[Tensor, " selected"]]
    proximal_logprobs: Float[Tensor, " selected"] | None = None


def micro_batch(samples: list[TrainingSample], components: list[ComponentConfig], device: torch.device) -> MicroBatch:
    """Lays the samples' tokens end to end, on the device."""
    masks = {c.name: _flat([s.masks[c.name] for s in samples], np.bool_, device) for c in components}
    return MicroBatch(
        samples=samples,
        behaviour_logprobs=_flat([s.behaviour_logprobs for s in samples], np.float32, device),
        staleness=_flat([s.staleness for s in samples], np.int64, device),
        masks=masks,
        advantages={
            c.name: _flat([np.full(len(s.staleness), s.advantages[c.name]) for s in samples], np.float32, device)
            for c in components
        },
        trained=torch.stack(list(masks.values())).any(dim=0),
        sees_images=_flat([np.full(len(s.staleness), bool(s.images)) for s in samples], np.bool_, device),
        parts={
            part: _flat([s.parts.get(part, np.zeros(len(s.staleness))) for s in samples], np.bool_, device)
            for part in PARTS
        },
    )


def _flat(
    arrays: list[Shaped[np.ndarray, " _response"]], dtype: Any, device: torch.device
) -> Shaped[Tensor, " selected"]:
    return torch.from_numpy(np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype)).to(device)
