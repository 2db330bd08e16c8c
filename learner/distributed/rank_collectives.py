"""What the ranks agree on before they go on together. Every rank calls these, in the same order."""

import torch
import torch.distributed as dist


def main_rank(value: int) -> int:
    """Rank 0's value, on every rank."""
    told = torch.tensor(value)
    dist.broadcast(told, 0)
    return int(told)


def all_ranks(holds: bool) -> bool:
    """Whether it holds on every rank."""
    told = torch.tensor(int(holds))
    dist.all_reduce(told, dist.ReduceOp.MIN)
    return bool(told)


def any_rank(holds: bool) -> bool:
    """Whether it holds on one rank or more."""
    return not all_ranks(not holds)
