"""The reference policy of the KL term: a frozen copy of the policy as it once was."""

from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from learner.engine import build_frozen_engine
from learner.export import export_policy
from learner.lora import merged_parameters, without_adapters
from learner.packing import Pack
from learner.policy import token_logprobs
from learner.shards import write_parameters
from vision_sr1.config import Config


class Reference(Protocol):
    """Predicts; may follow the policy; is part of a checkpoint where the run's start does not give it back."""

    def logprobs(self, pack: Pack) -> Float[Tensor, " selected"]:
        """Log-probabilities of the pack's selected tokens."""

    def refresh(self, policy: torch.nn.Module) -> None:
        """Takes over the policy's weights. A collective."""

    def save(self, processor: Any, folder: Path) -> None:
        """Writes the weights in Hugging Face format, unless they are the run's initial ones. A collective."""


class BaseWeights:
    """The policy without its adapters: takes no memory of its own, and never changes."""

    def __init__(self, engine: Any, device: torch.device) -> None:
        self._engine = engine
        self._device = device

    def logprobs(self, pack: Pack) -> Float[Tensor, " selected"]:
        """See `Reference`."""
        with torch.no_grad(), without_adapters(self._engine.module):
            return token_logprobs(self._engine, pack, self._device)

    def refresh(self, policy: torch.nn.Module) -> None:
        """There is nothing to take over."""

    def save(self, processor: Any, folder: Path) -> None:
        """There is nothing that the policy's checkpoint lacks."""


class FrozenCopy:
    """A model of its own on every rank.

    Args:
        model: its first weights.
        is_initial: whether those are the run's initial ones.
    """

    def __init__(self, config: Config, model: torch.nn.Module, device: torch.device, *, is_initial: bool) -> None:
        self._is_initial = is_initial
        self._device = device
        self._engine = build_frozen_engine(config, model, device, offload=config.learner.reference.offload)
        self._model = model

    def logprobs(self, pack: Pack) -> Float[Tensor, " selected"]:
        """See `Reference`."""
        with torch.no_grad():
            return token_logprobs(self._engine, pack, self._device)

    def refresh(self, policy: torch.nn.Module) -> None:
        """See `Reference`."""
        write_parameters(merged_parameters(policy), self._model)
        self._is_initial = False

    def save(self, processor: Any, folder: Path) -> None:
        """See `Reference`."""
        if not self._is_initial:
            export_policy(self._model, processor, folder)
