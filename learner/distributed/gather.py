"""Full parameters of models whose parameters ZeRO-3 may shard, gathered some at a time."""

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor

GATHERED_BYTES = 64 * 2**20  # of parameters whose collectives are under way at once, and waited for together


def full_parameters(
    model: torch.nn.Module,
    wanted: Callable[[str], bool] = lambda name: True,  # noqa: ARG005
) -> Iterator[tuple[str, Tensor]]:
    """(name, full tensor) of every parameter whose name is wanted, in the module's order.

    Sharded ones are gathered some at a time (GATHERED_BYTES) and released when one beyond them is asked for: every rank
    must iterate to the end, and must not keep the tensor.
    """
    for together in _cut([(name, p) for name, p in model.named_parameters() if wanted(name)]):
        with _gathered([parameter for _, parameter in together]):
            for name, parameter in together:
                yield name, parameter.data


def _cut(parameters: list[tuple[str, Tensor]]) -> Iterator[list[tuple[str, Tensor]]]:
    """Consecutive parameters of together at most GATHERED_BYTES; a larger one alone."""
    together: list[tuple[str, Tensor]] = []
    size = 0
    for name, parameter in parameters:
        length = full_shape(parameter).numel() * parameter.dtype.itemsize
        if together and size + length > GATHERED_BYTES:
            yield together
            together, size = [], 0
        together.append((name, parameter))
        size += length
    if together:
        yield together


@contextlib.contextmanager
def _gathered(parameters: list[Tensor]) -> Iterator[None]:
    """The sharded ones among these as a whole. A collective."""
    sharded = [parameter for parameter in parameters if _is_sharded(parameter)]
    if not sharded:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(sharded):
        yield


def full_shape(parameter: Tensor) -> torch.Size:
    """The shape of the whole parameter, also where this rank holds a shard of it."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def write_parameters(values: Iterable[tuple[str, Tensor]], targets: Iterable[Tensor]) -> None:
    """Writes full tensors into parameters that may be sharded, in the order given. A collective."""
    with torch.no_grad():
        for (_, value), parameter in zip(values, targets, strict=True):
            if not _is_sharded(parameter):
                parameter.copy_(value)
                continue
            import deepspeed

            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                if dist.get_rank() == 0:
                    parameter.copy_(value)


def _is_sharded(parameter: Tensor) -> bool:
    return hasattr(parameter, "ds_shape")
