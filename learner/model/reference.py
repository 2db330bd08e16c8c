"""The reference policy of the KL term: a frozen copy of the policy as it once was."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from learner.distributed.deepspeed_engine import build_frozen_engine
from learner.distributed.gather import write_parameters
from learner.model.lora import merged_parameters, without_adapters
from learner.model.packing import Pack
from learner.model.policy import token_logprobs
from learner.model.snapshots import export_snapshot
from vision_sr1.config import Config
from vision_sr1.run_folder.checkpoints import REFERENCE


@runtime_checkable
class Reference(Protocol):
    """Predicts; may follow the policy; is part of a checkpoint where the run's start does not give it back."""

    model: torch.nn.Module

    def logprobs(self, pack: Pack) -> Float[Tensor, " selected"]:
        """Log-probabilities of the pack's selected tokens."""

    def refresh(self, policy: torch.nn.Module) -> None:
        """Takes over the policy's weights. A collective."""

    def snapshot(self, read: Callable[[Tensor], Tensor]) -> dict[str, Tensor] | None:
        """The weights in CPU memory on rank 0, unless they are the run's initial ones. A collective.

        Args:
            read: brings a parameter that is not where the model has it.
        """


class BaseWeights:
    """The policy without its adapters: takes no memory of its own, and never changes."""

    def __init__(self, engine: Any, device: torch.device) -> None:
        self.model = engine.module
        self._engine = engine
        self._device = device

    def logprobs(self, pack: Pack) -> Float[Tensor, " selected"]:
        """See `Reference`."""
        with torch.no_grad(), without_adapters(self._engine.module):
            return token_logprobs(self._engine, pack, self._device)

    def refresh(self, policy: torch.nn.Module) -> None:
        """There is nothing to take over."""

    def snapshot(self, read: Callable[[Tensor], Tensor]) -> None:
        """There is nothing that the policy's checkpoint lacks."""


class FrozenCopy:
    """A model of its own, on every rank or sharded over them.

    Args:
        model: its first weights.
        is_initial: whether those are the run's initial ones.
    """

    def __init__(self, config: Config, model: torch.nn.Module, device: torch.device, *, is_initial: bool) -> None:
        self._is_initial = is_initial
        self._device = device
        self._engine = build_frozen_engine(config, model, device, config.learner.reference.placement)
        self.model = model

    def logprobs(self, pack: Pack) -> Float[Tensor, " selected"]:
        """See `Reference`."""
        with torch.no_grad():
            return token_logprobs(self._engine, pack, self._device)

    def refresh(self, policy: torch.nn.Module) -> None:
        """See `Reference`."""
        write_parameters(merged_parameters(policy), self.model.parameters())
        self._is_initial = False

    def snapshot(self, read: Callable[[Tensor], Tensor]) -> dict[str, Tensor] | None:
        """See `Reference`."""
        return None if self._is_initial else export_snapshot(self.model, read)


def build_reference(
    config: Config, engine: Any, load: Callable[[str], torch.nn.Module], checkpoint: Path | None, device: torch.device
) -> Reference | None:
    """The reference that the objective asks for; None where no component has a KL term.

    Args:
        load: makes the policy of a folder.
        checkpoint: that the run is resumed from; has the reference's weights where they are not the initial ones.
    """
    settings = config.learner
    if not any(component.kl_coef > 0 for component in settings.components):
        return None
    if settings.lora.rank and not settings.reference.refresh_every:
        return BaseWeights(engine, device)
    refreshed = checkpoint / REFERENCE if checkpoint is not None else None
    path = str(refreshed) if refreshed is not None and refreshed.is_dir() else config.model.path
    return FrozenCopy(config, load(path), device, is_initial=path == config.model.path)
