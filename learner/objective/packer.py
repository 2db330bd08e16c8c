"""Packs of training samples on the device, each made while the one before it is computed: images take time."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch

from learner.model.masking import Mask
from learner.model.packing import Pack, pack
from learner.model.policy import layout_of, rope_positions
from learner.model.sequences import Images, Sequence, SequenceBuilder
from learner.objective.micro_batch import MicroBatch
from learner.objective.samples import TrainingSample

FetchImages = Callable[[set[str]], dict[str, bytes]]  # encoded images by their hash


class Packer:
    """Makes packs for one policy."""

    def __init__(self, policy: torch.nn.Module, builder: SequenceBuilder, device: torch.device, dtype: Any) -> None:
        self._builder = builder
        self._filler = builder.filler()
        self._rope, self._layout_of = partial(rope_positions, policy), partial(layout_of, policy)
        self._device, self._dtype = device, dtype

    def packs(
        self, batches: list[MicroBatch], fetch_images: FetchImages, *, share_prompts: bool, mask: Mask | None = None
    ) -> Iterator[tuple[MicroBatch, Pack, Pack | None]]:
        """Each micro-batch with its pack and, with a mask, that of its answers to prompts with images, masked."""
        encoded = fetch_images({sha for batch in batches for sample in batch.samples for sha in sample.images})

        def make(samples: list[TrainingSample]) -> tuple[Pack, Pack | None]:
            packed = self.pack(samples, encoded, share_prompts=share_prompts)
            if mask is None:
                return packed, None
            seeing = [sample for sample in samples if sample.images]
            return packed, self.pack(seeing, encoded, share_prompts=share_prompts, mask=mask)

        with ThreadPoolExecutor(1) as aside:
            made = aside.submit(make, batches[0].samples)
            for batch, following in zip(batches, [*batches[1:], None], strict=True):
                packed, masked = made.result()
                if following is not None:
                    made = aside.submit(make, following.samples)
                yield batch, packed, masked

    def pack(
        self,
        samples: list[TrainingSample],
        encoded: dict[str, bytes],
        *,
        share_prompts: bool,
        mask: Mask | None = None,
    ) -> Pack:
        """One pack, of no more than the filler where there are no samples."""
        prepared: dict[tuple[str, ...], Images | None] = {}
        sequences: list[Sequence] = []
        for sample in samples:
            if sample.images not in prepared:
                prepared[sample.images] = self._builder.images([encoded[sha] for sha in sample.images], mask)
            sequences.append(
                self._builder.from_tokens(
                    list(sample.sample.prompt_token_ids),
                    list(sample.sample.response_token_ids),
                    prepared[sample.images],
                )
            )
        packed = pack(sequences, self._filler, self._rope, share_prompts=share_prompts, layout_of=self._layout_of)
        return packed.to(self._device, self._dtype)
