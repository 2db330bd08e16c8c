"""Learning from one batch: optimizer steps of the objective on the sequences of its groups."""

import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from learner.objective import ComponentTokens, component_loss, kl_estimate
from learner.packing import Pack, balance, micro_batches, pack
from learner.policy import rope_positions, token_logprobs
from learner.samples import TrainingSample, training_samples
from learner.sequences import Images, Sequence, SequenceBuilder
from vision_sr1.config import Config
from vision_sr1.v1 import pipeline_pb2 as pb

FetchImages = Callable[[set[str]], dict[str, bytes]]


class PolicyUpdate:
    """Turns batches of scored groups into optimizer steps."""

    def __init__(
        self, config: Config, engine: Any, reference: Any | None, builder: SequenceBuilder, device: torch.device
    ) -> None:
        self._settings = config.learner
        self._engine = engine
        self._reference = reference
        self._builder = builder
        self._filler = builder.filler()
        self._rope = partial(rope_positions, engine.module)
        self._device = device

    def learn(self, groups: list[pb.ScoredGroup], fetch_images: FetchImages) -> dict[str, float]:
        """Takes the batch's optimizer steps and returns its scalars. Every rank calls it with the same groups."""
        started = time.monotonic()
        groups = [group for group in groups if group.rollouts]
        per_step = self._settings.prompts_per_step
        totals: dict[str, float] = defaultdict(float)
        norms, tokens = [], 0
        for first in range(0, len(groups), per_step):
            samples = training_samples(
                groups[first : first + per_step], self._settings.components, self._settings.advantage_epsilon
            )
            tokens += sum(len(sample) for sample in samples)
            for name, value in self._step(samples, fetch_images, is_first=first == 0).items():
                totals[name] += value
            norms.append(float(self._engine.get_global_grad_norm() or 0.0))
        scalars = {"grad_norm/mean": float(np.mean(norms)) if norms else 0.0}
        for component in self._settings.components:
            count = max(1.0, totals[f"tokens/{component.name}"])
            scalars[f"kl/{component.name}"] = totals[f"kl/{component.name}"] / count
            scalars[f"clip_fraction/{component.name}"] = totals[f"clipped/{component.name}"] / count
            scalars[f"loss/{component.name}"] = totals[f"loss/{component.name}"] / max(1, len(norms))
        mismatch_tokens = max(1.0, totals["mismatch/tokens"])
        scalars["mismatch_kl/engine_trainer"] = totals["mismatch/kl"] / mismatch_tokens
        seconds = time.monotonic() - started
        return scalars | {"seconds/learn": seconds, "tokens_per_second/learn": tokens / seconds}

    def _step(self, samples: list[TrainingSample], fetch_images: FetchImages, *, is_first: bool) -> dict[str, float]:
        """One optimizer step over all samples; returns sums over all ranks."""
        normalizers = {
            c.name: float(max(1, sum(int(s.masks[c.name].sum()) for s in samples))) for c in self._settings.components
        }
        mine = [samples[i] for i in balance([len(s) for s in samples], dist.get_world_size())[dist.get_rank()]]
        sequences = self._sequences(mine, fetch_images)
        packs = [
            (members, pack(sequences, members, self._filler, self._rope))
            for members in micro_batches(sequences, self._settings.micro_batch_tokens)
        ]
        references = [self._reference_logprobs(packed) for _, packed in packs]
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self._device))
        for (members, packed), ref_logprobs in zip(packs, references, strict=True):
            logprobs = token_logprobs(self._engine, packed, self._device)
            old = self._flat([mine[i].old_logprobs for i in members], np.float32)
            loss = logprobs.sum() * 0.0  # connects micro-batches without tokens too
            for component in self._settings.components:
                tokens = ComponentTokens(
                    mask=self._flat([mine[i].masks[component.name] for i in members], np.bool_),
                    advantages=self._flat(
                        [np.full(len(mine[i].old_logprobs), mine[i].advantages[component.name]) for i in members],
                        np.float32,
                    ),
                    normalizer=normalizers[component.name],
                )
                part, counts = component_loss(component, tokens, logprobs, old, ref_logprobs)
                loss = loss + part
                sums[f"loss/{component.name}"] += part.detach()
                for name, value in counts.items():
                    sums[f"{name}/{component.name}"] += value
            if is_first:
                sums["mismatch/kl"] += kl_estimate("k3", logprobs.detach(), old).sum()
                sums["mismatch/tokens"] += len(old)
            self._engine.backward(loss * dist.get_world_size(), scale_wrt_gas=False)
        self._engine.step()
        names = sorted(sums)
        stacked = torch.stack([sums[name].float() for name in names])
        dist.all_reduce(stacked)
        return dict(zip(names, stacked.tolist(), strict=True))

    def _sequences(self, samples: list[TrainingSample], fetch_images: FetchImages) -> list[Sequence]:
        encoded = fetch_images({sha for sample in samples for sha in sample.images})
        prepared: dict[tuple[str, ...], Images | None] = {}
        sequences = []
        for sample in samples:
            if sample.images not in prepared:
                prepared[sample.images] = self._builder.images([encoded[sha] for sha in sample.images])
            sequences.append(
                self._builder.from_tokens(
                    list(sample.sample.prompt_token_ids),
                    list(sample.sample.response_token_ids),
                    prepared[sample.images],
                )
            )
        return sequences

    def _reference_logprobs(self, packed: Pack) -> Tensor | None:
        if self._reference is None:
            return None
        with torch.no_grad():
            return token_logprobs(self._reference, packed, self._device)

    def _flat(self, arrays: list[np.ndarray], dtype: Any) -> Tensor:
        flat = np.concatenate([np.asarray(a, dtype=dtype) for a in arrays]) if arrays else np.zeros(0, dtype=dtype)
        return torch.from_numpy(flat).to(self._device)
