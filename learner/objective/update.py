"""Learning from one batch: optimizer steps of the objective on the sequences of its groups."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import structlog
import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from prometheus_client import Counter
from torch import Tensor

from learner.distributed.optimizer_step import OptimizerStep, nan_unless_finite
from learner.model.flops import ModelFlops
from learner.model.masking import Mask
from learner.model.packing import Pack, balance, micro_batches
from learner.model.policy import ROUNDING, token_logprobs, token_logprobs_and_entropies
from learner.model.reference import Reference
from learner.model.sequences import SequenceBuilder
from learner.objective.batch_statistics import BatchStatistics, advantage_spread, staleness_shares
from learner.objective.dependency import bonus_loss, share_weights, visual_dependency
from learner.objective.loss import ComponentTokens, PackTokens, component_loss, importance_weights
from learner.objective.micro_batch import MicroBatch, micro_batch
from learner.objective.packer import FetchImages, Packer
from learner.objective.samples import TrainingSample, by_prompt, to_compute, tokens_of, training_samples
from learner.objective.schedule import LearningRate
from vision_sr1.config import Config
from vision_sr1.runtime.gpus import known_gpu
from vision_sr1.v1 import pipeline_pb2 as pb

log = structlog.get_logger()

OPTIMIZER_STEPS = Counter("vision_sr1_learner_optimizer_steps", "Optimizer steps taken.")


@dataclass(frozen=True)
class UpdateResult:
    """What came of a batch.

    Attributes:
        steps: optimizer steps of the batch that have been taken, those before this call included.
        is_whole: whether these are all of them.
        skipped: of each step of this call, whether it was skipped because of a loss or gradient that is not finite.
    """

    steps: int
    is_whole: bool
    scalars: dict[str, float]
    skipped: tuple[bool, ...] = ()


@dataclass(frozen=True)
class _Step:
    """This rank's part of one optimizer step; over all ranks, N_k of every component and N of the dependency bonus."""

    micro_batches: list[MicroBatch]
    normalizers: dict[str, float]
    bonus_normalizer: float


class PolicyUpdate:
    """Turns batches of scored groups into optimizer steps."""

    def __init__(
        self, config: Config, engine: Any, reference: Reference | None, builder: SequenceBuilder, device: torch.device
    ) -> None:
        self._settings = config.learner
        self._seed = config.run.seed
        self._engine = engine
        self._reference = reference
        self._packer = Packer(engine.module, builder, device, getattr(torch, config.model.dtype))
        self._optimizer_step = OptimizerStep(engine)
        self._learning_rate = LearningRate(config.learner)
        self._has_entropy_bonus = any(component.entropy_coef for component in config.learner.components)
        self._device = device
        extra = int(reference is not None) + int(config.learner.off_policy.recompute_proximal)
        self._model_flops = ModelFlops(engine.module, forward_passes=extra, dependency=config.learner.dependency)
        gpu = known_gpu(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        self._rounding = ROUNDING[config.model.dtype]
        self._shares_prompts: bool | None = None  # not known before the first batch
        self._peak_flops = None if gpu is None else 1e12 * gpu.tflops * dist.get_world_size()

    def learn(
        self,
        groups: list[pb.ScoredGroup],
        policy_version: int,
        fetch_images: FetchImages,
        *,
        first_step: int = 0,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> UpdateResult:
        """Takes the batch's optimizer steps. Every rank calls it with the same groups.

        Args:
            groups: the batch; those without rollouts are left out.
            policy_version: of the policy as it was before the batch, which is the number of batches before this one.
            fetch_images: encoded images by their hash.
            first_step: steps of this batch that were taken before.
            interrupted: asked after each step, on every rank with the same answer; the batch ends there if true.
        """
        started = time.monotonic()
        settings = self._settings
        samples = training_samples([group for group in groups if group.rollouts], settings, policy_version)
        if not samples:
            log.warning(
                "batch_empty",
                message="The batch has no rollouts; the weights stay as they are",
                policy_version=policy_version,
            )
            return UpdateResult(first_step, True, {})
        if self._shares_prompts is None:
            self._shares_prompts = self._sharing_is_exact(samples[0], fetch_images)
        starts = range(0, len(samples), settings.prompts_per_step)[first_step:]
        parts = [
            [sample for group in samples[first : first + settings.prompts_per_step] for sample in group]
            for first in starts
        ]
        computed = [to_compute(part) for part in parts]
        steps = [self._share(part) for part in computed]
        statistics = BatchStatistics(settings, self._device)
        mask = None
        if settings.dependency.is_used:
            mask = Mask(settings.dependency.mask_ratio, f"{self._seed}/{policy_version}")
        if settings.off_policy.recompute_proximal:
            self._compute_proximal(steps, fetch_images, statistics)
        norms: list[float | None] = []  # None where the step was skipped
        learning_rate = 0.0
        for number, step in enumerate(steps, first_step):
            learning_rate = self._learning_rate.at(policy_version, number)
            for parameters in self._engine.optimizer.param_groups:
                parameters["lr"] = learning_rate
            norms.append(self._take(step, fetch_images, mask, statistics, is_first=number == 0))
            if norms[-1] is not None:
                OPTIMIZER_STEPS.inc()
            else:
                log.error(
                    "step_skipped",
                    message="The loss or gradient is not finite; the optimizer step was skipped",
                    policy_version=policy_version,
                    step=number,
                )
            if len(norms) < len(steps) and interrupted():
                break
        seconds = time.monotonic() - started
        learned = list(chain(*parts[: len(norms)]))
        scalars = statistics.scalars(len(norms)) | self._speed(list(chain(*computed[: len(norms)])), seconds)
        scalars |= staleness_shares(learned, settings.max_staleness)
        scalars |= advantage_spread(learned, [component.name for component in settings.components])
        if finite := [norm for norm in norms if norm is not None]:
            scalars |= {"grad_norm/mean": float(np.mean(finite)), "grad_norm/max": max(finite)}
        scalars |= {
            "optimizer/learning_rate": learning_rate,
            "optimizer/skipped_steps": float(norms.count(None)),
            "seconds/learn": seconds,
        }
        skipped = tuple(norm is None for norm in norms)
        return UpdateResult(first_step + len(norms), len(norms) == len(steps), scalars, skipped)

    def _speed(self, computed: list[TrainingSample], seconds: float) -> dict[str, float]:
        """Tokens and model TFLOP of all ranks a second, and how much of what their GPUs could do that is."""
        flops = sum(map(self._flops, self._bundles(computed)))
        speed = {
            "tokens_per_second/learn": sum(len(sample) for sample in computed) / seconds,
            "tflops/learn": flops / seconds / 1e12,
        }
        return speed if self._peak_flops is None else speed | {"mfu/learn": flops / seconds / self._peak_flops}

    def _share(self, samples: list[TrainingSample]) -> _Step:
        """Gives each rank its part of a step's samples, cut into as many micro-batches as any other rank has."""
        normalizers = {
            c.name: float(max(1, sum(int(s.masks[c.name].sum()) for s in samples))) for c in self._settings.components
        }
        visual = sum(int(np.logical_or.reduce(list(s.masks.values())).sum()) for s in samples if s.images)
        bundles = self._bundles(samples)
        shares = balance([self._flops(bundle) for bundle in bundles], dist.get_world_size())
        mine = [bundles[i] for i in shares[dist.get_rank()]]
        cuts = micro_batches([tokens_of(bundle) for bundle in mine], self._settings.micro_batch_tokens)
        batches = [
            micro_batch(list(chain(*(mine[i] for i in members))), self._settings.components, self._device)
            for members in cuts
        ]
        return _Step(batches, normalizers, float(max(1, visual)))

    def _flops(self, bundle: list[TrainingSample]) -> float:
        """Of learning from samples with one prompt, which is computed once."""
        responses = [len(sample.sample.response_token_ids) for sample in bundle]
        return self._model_flops([(bundle[0].sample.prompt_token_ids, responses)])

    def _bundles(self, samples: list[TrainingSample]) -> list[list[TrainingSample]]:
        """What is computed together: samples with one prompt, as far as a micro-batch and a rank's share hold them."""
        if not self._shares_prompts:
            return [[sample] for sample in samples]
        share = -(-sum(len(sample) for sample in samples) // dist.get_world_size())
        return by_prompt(samples, min(self._settings.micro_batch_tokens, share))

    def _sharing_is_exact(self, group: list[TrainingSample], fetch_images: FetchImages) -> bool:
        """Computes a group both ways, as much of it as fits into a micro-batch. A collective."""
        fits = max(2, self._settings.micro_batch_tokens // max(len(sample) for sample in group))
        encoded = fetch_images({sha for sample in group for sha in sample.images})
        with torch.no_grad():
            packs = (self._packer.pack(group[:fits], encoded, share_prompts=shared) for shared in (True, False))
            shared, plain = (token_logprobs(self._engine, pack, self._device) for pack in packs)
        deviation = (shared - plain).abs().mean() if len(plain) else plain.new_zeros(())
        dist.all_reduce(deviation, op=dist.ReduceOp.MAX)
        if float(deviation) <= self._rounding:
            return True
        log.warning(
            "prompt_sharing_disabled",
            message="Sharing a prompt between responses changes log-probabilities; computing it per response",
            mean_difference=float(deviation),
            tolerance=self._rounding,
        )
        return False

    def _compute_proximal(self, steps: list[_Step], fetch_images: FetchImages, statistics: BatchStatistics) -> None:
        for step in steps:
            for batch, packed, _ in self._packs(step, fetch_images):
                batch.proximal_logprobs = self._predict(packed)
                statistics.mismatch(batch.proximal_logprobs, batch.behaviour_logprobs, batch.staleness)

    def _take(
        self,
        step: _Step,
        fetch_images: FetchImages,
        mask: Mask | None,
        statistics: BatchStatistics,
        *,
        is_first: bool,
    ) -> float | None:
        """One optimizer step; see `OptimizerStep` for what it returns."""
        for batch, packed, masked in self._packs(step, fetch_images, mask):
            ref_logprobs = None if self._reference is None else self._reference.logprobs(packed)
            masked_logprobs = None if masked is None else self._predict(masked)
            logprobs, entropies = token_logprobs_and_entropies(
                self._engine, packed, self._device, differentiable=self._has_entropy_bonus
            )
            if is_first and batch.proximal_logprobs is None:  # the weights are still those before the batch
                statistics.mismatch(logprobs.detach(), batch.behaviour_logprobs, batch.staleness)
            tokens = self._correct(batch, packed, ref_logprobs, statistics)
            loss = logprobs.sum() * 0.0  # connects micro-batches without tokens too
            if masked is not None and masked_logprobs is not None:
                dependency = visual_dependency(logprobs[batch.sees_images], masked_logprobs)
                tokens, bonus = self._depend(
                    batch, tokens, dependency, masked.indices, step.bonus_normalizer, statistics
                )
                loss = loss + bonus
            for component in self._settings.components:
                own = ComponentTokens(
                    batch.masks[component.name], batch.advantages[component.name], step.normalizers[component.name]
                )
                part, sums = component_loss(component, own, logprobs, tokens, entropies)
                statistics.component(component.name, part, sums)
                loss = loss + part
            statistics.ratios((logprobs - tokens.old_logprobs)[batch.trained])
            self._backward(loss)
            if masked is not None and self._settings.dependency.kl_bonus:
                self._backward_masked(batch, masked, logprobs.detach(), step.bonus_normalizer)
        return self._optimizer_step()

    def _backward(self, loss: Float[Tensor, ""]) -> None:
        self._engine.backward(nan_unless_finite(loss) * dist.get_world_size(), scale_wrt_gas=False)

    def _backward_masked(
        self, batch: MicroBatch, masked: Pack, logprobs: Float[Tensor, " selected"], normalizer: float
    ) -> None:
        """The gradient of the dependency bonus through the masked side, once activations of the other are released."""
        dependency = visual_dependency(logprobs[batch.sees_images], token_logprobs(self._engine, masked, self._device))
        trained = batch.trained[batch.sees_images]
        self._backward(bonus_loss(self._settings.dependency, dependency, trained, normalizer)[0])

    def _correct(
        self,
        batch: MicroBatch,
        packed: Pack,
        ref_logprobs: Float[Tensor, " selected"] | None,
        statistics: BatchStatistics,
    ) -> PackTokens:
        """Which policy ratios are taken to, and the weights that make up for another one having sampled."""
        settings = self._settings.off_policy
        excess = (batch.staleness - self._settings.max_staleness).clamp(min=0)
        weights = torch.pow(torch.full_like(batch.behaviour_logprobs, settings.stale_token_weight), excess)
        truncated = masked = torch.zeros_like(batch.trained)
        old_logprobs, sequences = batch.behaviour_logprobs, packed.indices
        if batch.proximal_logprobs is not None:
            old_logprobs = batch.proximal_logprobs
            importance = importance_weights(settings, old_logprobs, batch.behaviour_logprobs, sequences)
            weights, truncated, masked = weights * importance.weights, importance.is_truncated, importance.is_masked
        statistics.corrected(truncated, masked)
        return PackTokens(sequences, old_logprobs, ref_logprobs, weights)

    def _packs(
        self, step: _Step, fetch_images: FetchImages, mask: Mask | None = None
    ) -> Iterator[tuple[MicroBatch, Pack, Pack | None]]:
        shares = bool(self._shares_prompts)
        return self._packer.packs(step.micro_batches, fetch_images, share_prompts=shares, mask=mask)

    def _depend(
        self,
        batch: MicroBatch,
        tokens: PackTokens,
        dependency: Float[Tensor, " visual"],
        sequences: Int[Tensor, " visual"],
        normalizer: float,
        statistics: BatchStatistics,
    ) -> tuple[PackTokens, Float[Tensor, ""]]:
        """The pack's tokens, weighted by visual dependency, and the loss of its bonus, as far as they are asked for.

        Args:
            dependency: of the tokens of answers to prompts with images.
            sequences: which of the answers each of them belongs to.
        """
        settings, visual = self._settings.dependency, batch.sees_images
        statistics.dependency(dependency.detach(), {part: inside[visual] for part, inside in batch.parts.items()})
        if settings.token_share is not None:
            weights = tokens.weights.clone()
            weights[visual] *= share_weights(dependency.detach(), sequences, settings.token_share)
            tokens = replace(tokens, weights=weights)
        loss = dependency.new_zeros(())
        if settings.kl_bonus:
            trained = batch.trained[visual]
            loss, capped = bonus_loss(settings, dependency, trained, normalizer)
            statistics.bonus(loss, capped, trained)
        return tokens, loss

    def _predict(self, packed: Pack) -> Float[Tensor, " selected"]:
        """Log-probabilities without a gradient."""
        with torch.no_grad():
            return token_logprobs(self._engine, packed, self._device)
