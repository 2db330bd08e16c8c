"""Copies of a model's weights in CPU memory, to be written while the model learns on."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from learner.distributed.ranks import is_main
from learner.model.lora import adapter_parameters, merged_parameters


def export_snapshot(model: Any, read: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> dict[str, Tensor]:
    """All weights in CPU memory, adapters merged, on rank 0; elsewhere nothing. A collective.

    Args:
        read: brings a parameter that is not where the model has it.
    """
    return _in_memory((name, read(tensor)) for name, tensor in merged_parameters(model))


def adapter_snapshot(model: Any) -> dict[str, Tensor]:
    """The adapters in CPU memory, under PEFT's names, on rank 0; elsewhere nothing. A collective."""
    return _in_memory(adapter_parameters(model))


def _in_memory(parameters: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    main = is_main()
    weights = {}
    for name, tensor in parameters:  # gathers under ZeRO-3: every rank iterates
        if main:
            weights[name] = tensor.detach().cpu().clone()
    return weights
