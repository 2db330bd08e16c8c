"""Whether the actors' engines compute what the trainer computes: a few prompts are answered there and judged here."""

import contextlib
from functools import partial
from typing import Any

import grpc
import structlog
import torch
import torch.distributed as dist
from prometheus_client import Gauge

from learner.engine import is_main
from learner.packing import pack
from learner.policy import rope_positions, token_logprobs
from learner.sequences import SequenceBuilder
from learner.streams import LearnerStreams, share
from vision_sr1 import rpc
from vision_sr1.config import Config
from vision_sr1.data import DataError, Mixture, QuestionRow
from vision_sr1.prompts import PromptTemplate
from vision_sr1.v1 import actor_pb2, actor_pb2_grpc
from vision_sr1.v1 import pipeline_pb2 as pb
from vision_sr1.wire import SCHEMA_VERSION

log = structlog.get_logger()

DEVIATION = Gauge(
    "vision_sr1_weight_probe_deviation", "Mean |log-probability here - there| of the last probe's tokens."
)

PROMPTS = 4
MAX_TOKENS = 64
PRIORITY = -1  # ahead of new prompts, which have 0


class WeightsDivergedError(RuntimeError):
    """An actor computes something else than the trainer: what it writes is not worth learning from."""


class Probe:
    """Some prompts of the data set, answered by every actor; each rank judges all answers."""

    def __init__(
        self,
        config: Config,
        engine: Any,
        builder: SequenceBuilder,
        questions: Mixture[QuestionRow],
        device: torch.device,
    ) -> None:
        self._config = config
        self._engine = engine
        self._builder = builder
        self._rows = _first_usable(questions)
        self._template = PromptTemplate(config.data.prompt_template)
        self._device = device

    def deviations(self, policy_version: int, streams: LearnerStreams, actors: list[pb.ActorInfo]) -> dict[str, float]:
        """By actor, the mean |log-probability here - there| over the tokens that it sampled. Every rank calls it.

        Args:
            actors: that hold `policy_version`; rank 0's count. One that does not answer is left out.
        """
        answered = share([self._answers(policy_version, streams, actor) for actor in actors])
        judged = {group.id: self._deviation(group) for group in answered if group.rollouts}
        values = torch.tensor(list(judged.values()))
        dist.broadcast(values, 0)  # so that all ranks come to the same conclusion
        found = dict(zip(judged, values.tolist(), strict=True))
        if is_main():
            DEVIATION.set(max(found.values(), default=0.0))
            log.info("weights probed", policy_version=policy_version, deviations=found)
        return found

    def _answers(self, policy_version: int, streams: LearnerStreams, actor: pb.ActorInfo) -> pb.ScoredGroup:
        """The actor's answers, as a group under its id."""
        group = pb.ScoredGroup(schema_version=SCHEMA_VERSION, id=actor.id)
        # Truncated sampling (top-p) changes log-probabilities, which the trainer's do not follow.
        sampling = pb.SamplingParams(
            temperature=self._config.sampling.temperature, top_p=1.0, max_tokens=MAX_TOKENS, seed=policy_version
        )
        with rpc.channel(actor.address, self._config.tls) as channel:
            stub = actor_pb2_grpc.ActorStub(channel)
            calls = [
                stub.Generate(
                    actor_pb2.GenerateRequest(
                        schema_version=SCHEMA_VERSION,
                        request_id=f"probe@{policy_version}/{index}",
                        text=self._template.answer(row.question, len(row.images)),
                        images=streams.image_refs(row.images),
                        num_samples=1,
                        sampling=sampling,
                        priority=PRIORITY,
                        required_policy_version=policy_version,
                    ),
                    timeout=self._config.learner.weights.sync_timeout_s,
                )
                for index, row in enumerate(self._rows)
            ]
            for index, call in enumerate(calls):
                try:
                    (reply,) = list(call)
                except grpc.RpcError as error:
                    log.warning("probe not answered", actor=actor.id, prompt=index, error=error.details())
                else:
                    rollout = pb.Rollout(sample_index=index, sample=reply.sample)
                    group.rollouts.append(pb.ScoredRollout(rollout=rollout))
        return group

    def _deviation(self, group: pb.ScoredGroup) -> float:
        rollouts = [scored.rollout for scored in group.rollouts]
        sequences = [
            self._builder.from_tokens(
                list(rollout.sample.prompt_token_ids),
                list(rollout.sample.response_token_ids),
                self._builder.images(self._rows[rollout.sample_index].images),
            )
            for rollout in rollouts
        ]
        packed = pack(sequences, self._builder.filler(), partial(rope_positions, self._engine.module))
        with torch.no_grad():
            here = token_logprobs(self._engine, packed, self._device).cpu()
        there = torch.tensor([value for rollout in rollouts for value in rollout.sample.logprobs])
        return float((here - there).abs().mean())


def _first_usable(questions: Mixture[QuestionRow]) -> list[QuestionRow]:
    rows: list[QuestionRow] = []
    for index in range(len(questions)):
        with contextlib.suppress(DataError):  # the feeder says so when it comes to it
            rows.append(questions.at(0, index))
        if len(rows) == PROMPTS:
            break
    return rows
