"""Full parameters of a DeepSpeed engine, gathered one at a time where ZeRO-3 shards them."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def full_parameters(engine: Any) -> Iterator[tuple[str, Tensor]]:
    """(name, full tensor) of every parameter, in the module's order.

    Under ZeRO-3 each is gathered by a collective and released when the next is asked for: every rank must iterate to
    the end, and must not keep the tensor.
    """
    model = engine.module
    if engine.zero_optimization_stage() < 3:
        yield from model.named_parameters()
        return
    import deepspeed

    for name, parameter in model.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            yield name, parameter.data
