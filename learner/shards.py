"""Full parameters of models whose parameters ZeRO-3 may shard, gathered one at a time."""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor


def full_parameters(model: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name, full tensor) of every parameter, in the module's order.

    Sharded ones are gathered by a collective and released when the next is asked for: every rank must iterate to the
    end, and must not keep the tensor.
    """
    for name, parameter in model.named_parameters():
        if not _is_sharded(parameter):
            yield name, parameter
            continue
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            yield name, parameter.data


def copy_parameters(source: torch.nn.Module, target: torch.nn.Module) -> None:
    """Writes the source's parameters into the target, a model of the same shape; each may be sharded. A collective."""
    with torch.no_grad():
        for (_, value), parameter in zip(full_parameters(source), target.parameters(), strict=True):
            if not _is_sharded(parameter):
                parameter.copy_(value)
                continue
            import deepspeed

            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                if dist.get_rank() == 0:
                    parameter.copy_(value)


def _is_sharded(parameter: Tensor) -> bool:
    return hasattr(parameter, "ds_shape")
