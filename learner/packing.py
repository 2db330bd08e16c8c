"""Padding-free micro-batches: sequences laid end to end, as many as a token budget holds.

Positions restart with every sequence, and attention does not cross from one to the next.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from learner.sequences import Sequence

RopePositions = Callable[[Sequence], Int[Tensor, "3 length"]]


@dataclass(frozen=True)
class Pack:
    """One micro-batch.

    Attributes:
        indices: for each selected token, the index of its sequence in the pack.
        input_ids: all sequences, one after the other.
        position_ids: text position first, then the three of multimodal rotary embedding.
        is_image: true at image placeholders.
        predict_at: positions whose logits predict the selected tokens.
        targets: ids of the selected tokens.
    """

    indices: Int[Tensor, " selected"]
    input_ids: Int[Tensor, "1 tokens"]
    position_ids: Int[Tensor, "4 1 tokens"]
    is_image: Int[Tensor, "1 tokens"]
    pixel_values: Float[Tensor, "patches features"]
    grid_thw: Int[Tensor, "images 3"]
    predict_at: Int[Tensor, " selected"]
    targets: Int[Tensor, " selected"]


def balance(lengths: list[int], ranks: int) -> list[list[int]]:
    """Distributes sequences over ranks so that token counts are close: longest first, to the lightest rank."""
    loads = [0] * ranks
    shares: list[list[int]] = [[] for _ in range(ranks)]
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        rank = loads.index(min(loads))
        shares[rank].append(index)
        loads[rank] += lengths[index]
    return shares


def split_by_budget(lengths: list[int], budget: int) -> list[list[int]]:
    """Cuts sequences (given by length, kept in order of falling length) into micro-batches of at most `budget` tokens.

    A sequence longer than the budget gets a micro-batch of its own.
    """
    bins: list[tuple[int, list[int]]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        for position, (load, members) in enumerate(bins):
            if load + lengths[index] <= budget:
                bins[position] = (load + lengths[index], [*members, index])
                break
        else:
            bins.append((lengths[index], [index]))
    return [members for _, members in bins]


def micro_batches(lengths: list[int], budget: int) -> list[list[int]]:
    """Cuts this rank's sequences, given by length, into micro-batches, as indices into `lengths`.

    A collective: every rank gets the same number, empty ones where it has fewer, so that later collectives match.
    """
    mine = split_by_budget(lengths, budget)
    most = torch.tensor(len(mine))
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return mine + [[]] * (int(most) - len(mine))


def pack(sequences: list[Sequence], filler: Sequence, rope: RopePositions) -> Pack:
    """Lays sequences end to end; the filler goes last where none of them has an image."""
    laid = sequences if any(s.images is not None for s in sequences) else [*sequences, filler]
    starts = np.cumsum([0, *[len(s) for s in laid]])
    selected = [s.selected + start for s, start in zip(laid, starts, strict=False)]
    token_ids = torch.from_numpy(np.concatenate([s.token_ids for s in laid]))
    positions = [torch.cat([torch.arange(len(s)).unsqueeze(0), rope(s)]) for s in laid]
    at = torch.from_numpy(np.concatenate(selected).astype(np.int64))
    images = [s.images for s in laid if s.images is not None]
    return Pack(
        indices=torch.repeat_interleave(torch.tensor([len(s.selected) for s in sequences], dtype=torch.int64)),
        input_ids=token_ids.unsqueeze(0),
        position_ids=torch.cat(positions, dim=1).unsqueeze(1),
        is_image=torch.from_numpy(np.concatenate([s.is_image for s in laid])).int().unsqueeze(0),
        pixel_values=torch.cat([i.pixel_values for i in images]),
        grid_thw=torch.cat([i.grid_thw for i in images]),
        predict_at=at - 1,
        targets=token_ids[at],
    )
