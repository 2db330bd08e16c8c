"""What the ranks agree on before they go on together. Every rank calls these, in the same order.

They go over the CPU. torch's `barrier` would not: where GPUs carry gradients it runs on them.
"""

import torch
import torch.distributed as dist

from learner.distributed.ranks import is_main
from vision_sr1.v1 import pipeline_pb2 as pb


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


def share_groups(groups: list[pb.ScoredGroup]) -> list[pb.ScoredGroup]:
    """Gives rank 0's groups to every rank, as serialized messages."""
    blobs = [group.SerializeToString() for group in groups]
    lengths = torch.tensor([len(blob) for blob in blobs], dtype=torch.int64)
    count = torch.tensor(len(blobs))
    dist.broadcast(count, 0)
    if dist.get_world_size() == 1:
        return groups
    if not is_main():
        lengths = torch.zeros(int(count), dtype=torch.int64)
    dist.broadcast(lengths, 0)
    payload = torch.frombuffer(bytearray(b"".join(blobs) or b"\0"), dtype=torch.uint8)
    if not is_main():
        payload = torch.zeros(max(1, int(lengths.sum())), dtype=torch.uint8)
    dist.broadcast(payload, 0)
    if is_main():
        return groups
    data, start, shared = payload.numpy().tobytes(), 0, []
    for length in lengths.tolist():
        shared.append(pb.ScoredGroup.FromString(data[start : start + length]))
        start += length
    return shared
