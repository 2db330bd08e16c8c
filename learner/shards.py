"""Full parameters of models whose parameters ZeRO-3 may shard, gathered one at a time."""

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor


def full_parameters(
    model: torch.nn.Module,
    wanted: Callable[[str], bool] = lambda name: True,  # noqa: ARG005
) -> Iterator[tuple[str, Tensor]]:
    """(name, full tensor) of every parameter whose name is wanted, in the module's order.

    Sharded ones are gathered by a collective and released when the next is asked for: every rank must iterate to the
    end, and must not keep the tensor.
    """
    for name, parameter in model.named_parameters():
        if not wanted(name):
            continue
        if not _is_sharded(parameter):
            yield name, parameter
            continue
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            yield name, parameter.data


def full_shape(parameter: Tensor) -> torch.Size:
    """The shape of the whole parameter, also where this rank holds a shard of it."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def write_parameters(values: Iterable[tuple[str, Tensor]], target: torch.nn.Module) -> None:
    """Writes full tensors, in the module's order, into a model that may be sharded. A collective."""
    with torch.no_grad():
        for (_, value), parameter in zip(values, target.parameters(), strict=True):
            if not _is_sharded(parameter):
                parameter.copy_(value)
                continue
            import deepspeed

            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                if dist.get_rank() == 0:
                    parameter.copy_(value)


def _is_sharded(parameter: Tensor) -> bool:
    return hasattr(parameter, "ds_shape")
