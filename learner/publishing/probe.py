"""Whether the actors' engines compute what the trainer computes: a few prompts are answered there and judged here."""

import contextlib
import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from typing import Any

import grpc
import numpy as np
import structlog
import torch
import torch.distributed as dist
from jaxtyping import Float
from PIL import Image
from prometheus_client import Gauge
from torch import Tensor

from learner.connection.images import RunImages
from learner.distributed.rank_collectives import share_groups
from learner.distributed.ranks import is_main
from learner.model.packing import Pack, pack, split_by_budget
from learner.model.policy import ROUNDING, layout_of, rope_positions, token_logprobs
from learner.model.sequences import Sequence, SequenceBuilder
from vision_sr1.config import Config
from vision_sr1.data import DataError, Mixture, QuestionRow
from vision_sr1.pipeline.wire import SCHEMA_VERSION
from vision_sr1.prompting.images import plain_image
from vision_sr1.prompting.prompt_template import PromptTemplate
from vision_sr1.runtime import rpc
from vision_sr1.v1 import actor_pb2, actor_pb2_grpc
from vision_sr1.v1 import pipeline_pb2 as pb

log = structlog.get_logger()

DEVIATION = Gauge(
    "vision_sr1_weight_probe_deviation", "Mean |log-probability here - there| of the last probe's tokens."
)

PROMPTS = 4
LOOKED_THROUGH = 1_000  # rows, for prompts with images
MAX_TOKENS = 64
PRIORITY = -1  # ahead of new prompts, which have 0


class ProbeError(RuntimeError):
    """What actors write is not worth learning from."""


class WeightsDivergedError(ProbeError):
    """An actor computes something else than the trainer."""


class ImagesIgnoredError(ProbeError):
    """Other images in a prompt change nothing in the trainer or in an actor."""


@dataclass(frozen=True)
class Comparison:
    """What one actor's answers to the probe say.

    Attributes:
        deviation: mean |log-probability here - there| over all tokens that the actor sampled.
        change: mean |log-probability - with other images in the prompt|, by the trainer, over all tokens of answers to
            prompts with images; None where there are none.
        shared_tokens: that the actor's answers to both images begin with.
        shared_change: the mean change over those, by the trainer.
        actors_change: and by the actor.
    """

    deviation: float
    change: float | None = None
    shared_tokens: int = 0
    shared_change: float = 0.0
    actors_change: float = 0.0

    def ignoring(self, actor: str, dtype: str) -> list[str]:
        """Which sides ignore images: "the trainer", the actor, both or none.

        Both answers of an actor are sampled with one seed: where it ignores the images they are equal, up to rounding.
        An actor with other weights sees them less or more than the trainer, which is not the same.
        """
        if self.change is None:
            return []
        if self.change == 0.0:
            is_blind = self.shared_tokens > 0 and self.actors_change <= ROUNDING[dtype]
            return ["the trainer", *([f"actor {actor}"] if is_blind else [])]
        is_clear = self.shared_change > ROUNDING[dtype]
        is_blind = self.actors_change < min(ROUNDING[dtype], 0.1 * self.shared_change)
        return [f"actor {actor}"] if is_clear and is_blind else []


class Probe:
    """Some prompts of the data set, answered by every actor, with their images and with others; each rank judges all
    answers."""

    def __init__(
        self,
        config: Config,
        engine: Any,
        builder: SequenceBuilder,
        questions: Mixture[QuestionRow],
        images: RunImages,
        device: torch.device,
    ) -> None:
        self._config = config
        self._engine = engine
        self._images = images
        self._builder = builder
        rows = _first_usable(questions)
        self._rows = rows + [replace(row, images=[noise_like(image) for image in row.images]) for row in rows]
        self._prompts = len(rows)
        self._template = PromptTemplate(config.data.prompt_template)
        self._device = device

    def comparisons(self, policy_version: int, actors: list[pb.ActorInfo]) -> dict[str, Comparison]:
        """By actor, how its log-probabilities compare with the trainer's. Every rank calls it.

        Args:
            actors: that hold `policy_version`; rank 0's count. One that does not answer is left out.

        Raises:
            ImagesIgnoredError: the trainer or an actor ignores images.
        """
        answered = share_groups([self._answers(policy_version, actor) for actor in actors])
        judged = {group.id: self._compare(group) for group in answered if group.rollouts}
        agreed = [judged]
        dist.broadcast_object_list(agreed, 0)  # so that all ranks come to the same conclusion
        (found,) = agreed
        if self._device.type == "cuda" and self._config.actors.placement == "shared":
            torch.cuda.empty_cache()  # it is the actors' turn
        if is_main():
            DEVIATION.set(max((one.deviation for one in found.values()), default=0.0))
            log.info(
                "weights_verified",
                message="Compared the actors' log-probabilities with the trainer's",
                policy_version=policy_version,
                comparisons=found,
            )
        for actor, one in found.items():
            if ignoring := one.ignoring(actor, self._config.model.dtype):
                raise ImagesIgnoredError(
                    f"policy version {policy_version}: images are ignored by {' and '.join(ignoring)}. Other images in "
                    f"the probe's prompts change the trainer's log-probabilities by {one.change:.2g} on average. Over "
                    f"the tokens that both answers of actor {actor} begin with, they change the trainer's by "
                    f"{one.shared_change:.2g} and the actor's by {one.actors_change:.2g}. Compare the model's vision "
                    "weights and preprocessor_config.json with those of the original model"
                )
        return found

    def _answers(self, policy_version: int, actor: pb.ActorInfo) -> pb.ScoredGroup:
        """The actor's answers, as a group under its id."""
        group = pb.ScoredGroup(schema_version=SCHEMA_VERSION, id=actor.id)
        sampling = pb.SamplingParams(
            temperature=self._config.sampling.temperature,
            top_p=self._config.sampling.top_p,
            max_tokens=MAX_TOKENS,
            seed=policy_version,
        )
        with rpc.channel(actor.address, self._config.tls) as channel:
            stub = actor_pb2_grpc.ActorStub(channel)
            calls = {
                index: stub.Generate(
                    actor_pb2.GenerateRequest(
                        schema_version=SCHEMA_VERSION,
                        request_id=f"probe@{policy_version}/{index}",
                        text=self._template.answer(row.question, len(row.images)),
                        images=self._images.put_for_now(row.images),
                        num_samples=1,
                        sampling=sampling,
                        priority=PRIORITY,
                        required_policy_version=policy_version,
                    ),
                    timeout=self._config.learner.weights.sync_timeout_s,
                )
                for index, row in enumerate(self._rows)
                if index < self._prompts or row.images
            }
            for index, call in calls.items():
                try:
                    (reply,) = list(call)
                except grpc.RpcError as error:
                    log.warning(
                        "probe_failed",
                        message="The actor did not answer a verification prompt",
                        actor=actor.id,
                        prompt=index,
                        error=error.details(),
                    )
                else:
                    rollout = pb.Rollout(sample_index=index, sample=reply.sample)
                    group.rollouts.append(pb.ScoredRollout(rollout=rollout))
        return group

    def _compare(self, group: pb.ScoredGroup) -> Comparison:
        samples = {scored.rollout.sample_index: scored.rollout.sample for scored in group.rollouts}
        here = self._logprobs([(sample, index) for index, sample in samples.items() if index < self._prompts])
        here |= self._logprobs([(sample, index) for index, sample in samples.items() if index >= self._prompts])
        there = {index: torch.tensor(sample.logprobs) for index, sample in samples.items()}
        deviation = _mean([(here[index] - there[index]).abs() for index in samples])
        twins = {index: index + self._prompts for index in samples if index + self._prompts in samples}
        if not twins:
            return Comparison(deviation)
        # In a pack of the same layout as the first, so that nothing but the images makes a difference.
        other = self._logprobs([(samples[i], i + self._prompts) for i in samples if i < self._prompts])
        changes, shared, by_actor = [], [], []
        shared_tokens = 0
        for index, twin in twins.items():
            changes.append((here[index] - other[twin]).abs())
            common = _in_common(samples[index].response_token_ids, samples[twin].response_token_ids)
            shared_tokens += common
            shared.append(changes[-1][:common])
            by_actor.append((there[index][:common] - there[twin][:common]).abs())
        return Comparison(deviation, _mean(changes), shared_tokens, _mean(shared), _mean(by_actor))

    def _logprobs(self, answers: list[tuple[pb.Sample, int]]) -> dict[int, Float[Tensor, " response"]]:
        """The trainer's log-probabilities of samples, each with the images of the row given beside it, by that row."""
        sequences = [
            self._builder.from_tokens(
                list(sample.prompt_token_ids),
                list(sample.response_token_ids),
                self._builder.images(self._rows[index].images),
            )
            for sample, index in answers
        ]
        found: dict[int, Float[Tensor, " response"]] = {}
        lengths = [len(sequence) for sequence in sequences]
        for members in split_by_budget(lengths, self._config.learner.micro_batch_tokens):
            packed = self._pack([sequences[place] for place in members])
            with torch.no_grad():
                logprobs = token_logprobs(self._engine, packed, self._device).cpu()
            parts = logprobs.split([len(answers[place][0].response_token_ids) for place in members])
            found |= {answers[place][1]: part for place, part in zip(members, parts, strict=True)}
        return found

    def _pack(self, sequences: list[Sequence]) -> Pack:
        rope = partial(rope_positions, self._engine.module)
        layout = partial(layout_of, self._engine.module)
        return pack(sequences, self._builder.filler(), rope, share_prompts=False, layout_of=layout)


def noise_like(image: bytes) -> bytes:
    """An image of the same size that shows nothing: coloured squares at random, the same each time."""
    width, height = plain_image(image).size
    squares = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    encoded = io.BytesIO()
    squares.resize((width, height), Image.Resampling.NEAREST).save(encoded, "PNG")
    return encoded.getvalue()


def _mean(parts: list[Float[Tensor, " _"]]) -> float:
    """Over the tokens of all parts; 0 where there are none."""
    tokens = torch.cat(parts)
    return float(tokens.mean()) if len(tokens) else 0.0


def _in_common(one: Iterable[int], other: Iterable[int]) -> int:
    """How many tokens both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _first_usable(questions: Mixture[QuestionRow]) -> list[QuestionRow]:
    """Prompts with images where there are enough of them; others make up the number."""
    with_images: list[QuestionRow] = []
    without: list[QuestionRow] = []
    for index in range(min(len(questions), LOOKED_THROUGH)):
        with contextlib.suppress(DataError):  # the feeder says so when it comes to it
            row = questions.at(0, index)
            (with_images if row.images else without).append(row)
        if len(with_images) == PROMPTS:
            break
    return (with_images + without)[:PROMPTS]
