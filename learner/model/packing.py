"""Padding-free micro-batches: as many sequences as a token budget holds, equal prompts and equal images once.

Sequences with one prompt make a tree: the prompt, then a branch for each of them. Positions of a branch continue the
prompt's; attention reaches from a branch to its prompt, and no further (`learner.model.attention`).
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Int
from torch import Tensor

from learner.model.attention import Layout, Trees
from learner.model.sequences import Sequence
from vision_sr1.families.family import ImageInput, joined
from vision_sr1.runtime.host_memory import to_device

RopePositions = Callable[[Sequence], Int[Tensor, "axes length"]]
LayoutOf = Callable[[Trees, list[range]], Layout]  # of trees and the places of images


@dataclass(frozen=True)
class Pack:
    """One micro-batch.

    Attributes:
        indices: for each selected token, the index of its sequence.
        input_ids: all trees, one after the other.
        position_ids: of rotary embedding, on each of its axes.
        layout: what attends to what.
        images: of distinct images, by the names that the model's vision tower has for them.
        shown: which of the images is at each place where images stand.
        predict_at: positions whose logits predict the selected tokens, in the order of the sequences.
        targets: ids of the selected tokens.
    """

    indices: Int[Tensor, " selected"]
    input_ids: Int[Tensor, "1 tokens"]
    position_ids: Int[Tensor, "axes 1 tokens"]
    layout: Layout
    images: dict[str, Tensor]
    shown: list[int]
    predict_at: Int[Tensor, " selected"]
    targets: Int[Tensor, " selected"]

    def to(self, device: torch.device, dtype: torch.dtype) -> "Pack":
        """On the device, pixels in `dtype`: rounded before they are copied."""
        return Pack(
            indices=to_device(self.indices, device),
            input_ids=to_device(self.input_ids, device),
            position_ids=to_device(self.position_ids, device),
            layout=self.layout.to(device),
            images={
                name: to_device(tensor.to(dtype) if tensor.is_floating_point() else tensor, device)
                for name, tensor in self.images.items()
            },
            shown=self.shown,
            predict_at=to_device(self.predict_at, device),
            targets=to_device(self.targets, device),
        )


def balance(costs: list[float], ranks: int) -> list[list[int]]:
    """Distributes sequences over ranks so that costs are close: the costliest first, to the rank with the least."""
    loads = [0.0] * ranks
    shares: list[list[int]] = [[] for _ in range(ranks)]
    for index in sorted(range(len(costs)), key=lambda i: -costs[i]):
        rank = loads.index(min(loads))
        shares[rank].append(index)
        loads[rank] += costs[index]
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


def prompt_trees(sequences: list[Sequence]) -> list[list[int]]:
    """Which sequences have the same prompt and images, as indices, in the order of their first."""
    trees: dict[Hashable, list[int]] = {}
    for index, sequence in enumerate(sequences):
        end = sequence.prompt_length
        digests = () if sequence.images is None else sequence.images.digests
        can_share = end < len(sequence) and not sequence.is_image[end:].any()
        key: Hashable = (sequence.token_ids[:end].tobytes(), digests) if can_share else index
        trees.setdefault(key, []).append(index)
    return list(trees.values())


def pack(
    sequences: list[Sequence],
    filler: Sequence,
    rope: RopePositions,
    *,
    share_prompts: bool = True,
    layout_of: LayoutOf | None = None,
) -> Pack:
    """Lays trees end to end; the filler goes last where none of the sequences has an image.

    Args:
        layout_of: the model's attention; default: every token attends to all before it.
    """
    trees = prompt_trees(sequences) if share_prompts else [[index] for index in range(len(sequences))]
    row = _Row(rope)
    predict_at: dict[int, Int[Tensor, " selected"]] = {}
    for tree in trees:
        predict_at.update(zip(tree, row.add([sequences[index] for index in tree]), strict=True))
    if not row.shown:
        row.add([filler])
    none = np.zeros(0, dtype=np.int64)
    return Pack(
        indices=torch.repeat_interleave(torch.tensor([len(s.selected) for s in sequences], dtype=torch.int64)),
        input_ids=torch.from_numpy(np.concatenate(row.token_ids)).unsqueeze(0),
        position_ids=torch.cat(row.positions, dim=1).unsqueeze(1),
        layout=Layout.of(row.trees) if layout_of is None else layout_of(row.trees, row.image_places),
        images=joined(row.images.values()),
        shown=row.shown,
        predict_at=torch.cat([torch.from_numpy(none), *(predict_at[index] for index in range(len(sequences)))]),
        targets=torch.from_numpy(np.concatenate([none, *(s.token_ids[s.selected] for s in sequences)])),
    )


class _Row:
    """A pack while it is laid.

    Attributes:
        trees: the length of each prompt, or of a sequence alone, and those of its branches.
        images: by digest.
        shown: the image of each place where images stand, as an index into `images`.
        image_places: where the tokens of one image, or of one of its tiles, stand.
    """

    def __init__(self, rope: RopePositions) -> None:
        self.token_ids: list[Int[np.ndarray, " tokens"]] = []
        self.positions: list[Int[Tensor, "axes tokens"]] = []
        self.trees: list[tuple[int, list[int]]] = []
        self.images: dict[str, ImageInput] = {}
        self.shown: list[int] = []
        self.image_places: list[range] = []
        self._rope = rope
        self._end = 0

    def add(self, sequences: list[Sequence]) -> list[Int[Tensor, " selected"]]:
        """Lays sequences with one prompt; returns for each the places that predict its selected tokens."""
        if len(sequences) == 1:
            start = self._trunk(sequences[0])
            return [torch.from_numpy(sequences[0].selected) + start - 1]
        prompt = sequences[0].prompt()
        last = self._trunk(prompt) + len(prompt) - 1
        following = 1 + int(self.positions[-1].max())
        return [self._branch(sequence, last, following) for sequence in sequences]

    def _trunk(self, sequence: Sequence) -> int:
        """Lays a prompt, or a sequence alone; returns where it begins."""
        start = self._end
        self._lay(sequence.token_ids, self._rope(sequence))
        self.trees.append((len(sequence), []))
        for digest, image in sequence.images or ():
            self.images.setdefault(digest, image)
            self.shown.append(list(self.images).index(digest))
        edges = np.diff(sequence.is_image, prepend=False, append=False).nonzero()[0] + start
        self.image_places += [range(*run) for run in edges.reshape(-1, 2).tolist()]
        return start

    def _branch(self, sequence: Sequence, last: int, following: int) -> Int[Tensor, " selected"]:
        """Lays what follows the prompt, whose last token stands at `last`, from the position `following`."""
        start, end = self._end, sequence.prompt_length
        positions = following + torch.arange(len(sequence) - end)
        self._lay(sequence.token_ids[end:], positions.expand(len(self.positions[-1]), -1))
        self.trees[-1][1].append(len(sequence) - end)
        at = torch.from_numpy(sequence.selected) - end + start - 1
        return torch.where(at < start, last, at)

    def _lay(self, token_ids: Int[np.ndarray, " tokens"], positions: Int[Tensor, "axes tokens"]) -> None:
        self.token_ids.append(token_ids)
        self.positions.append(positions)
        self._end += len(token_ids)
