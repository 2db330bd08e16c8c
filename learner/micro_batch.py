"""The data of a micro-batch's response tokens, laid end to end like the sequences of its pack."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from learner.samples import TrainingSample
from vision_sr1.config import ComponentConfig


class MicroBatch:
    """Samples that one rank packs together; there may be none.

    Attributes:
        samples: in the order of the pack.
        behaviour_logprobs: under the policy that sampled.
        proximal_logprobs: by the trainer before the batch; None where they are not computed.
        staleness: versions between the policy that sampled and the one that learns.
        masks: by component name, the tokens that it trains.
        advantages: by component name, those of the tokens' rollouts.
        trained: tokens that any component trains.
    """

    def __init__(self, samples: list[TrainingSample], components: list[ComponentConfig], device: torch.device) -> None:
        def flat(arrays: list[np.ndarray], dtype: Any) -> Tensor:
            return torch.from_numpy(np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype)).to(device)

        self.samples = samples
        self.behaviour_logprobs: Float[Tensor, " selected"] = flat([s.behaviour_logprobs for s in samples], np.float32)
        self.proximal_logprobs: Float[Tensor, " selected"] | None = None
        self.staleness: Int[Tensor, " selected"] = flat([s.staleness for s in samples], np.int64)
        self.masks: dict[str, Bool[Tensor, " selected"]] = {
            c.name: flat([s.masks[c.name] for s in samples], np.bool_) for c in components
        }
        self.advantages: dict[str, Float[Tensor, " selected"]] = {
            c.name: flat([np.full(len(s.staleness), s.advantages[c.name]) for s in samples], np.float32)
            for c in components
        }
        self.trained: Bool[Tensor, " selected"] = torch.stack(list(self.masks.values())).any(dim=0)
