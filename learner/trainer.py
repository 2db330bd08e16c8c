"""The RL loop, in the words of the design: draw, answer, score, learn, publish."""

import signal
import time
from statistics import fmean
from typing import Any

import structlog
import torch
import torch.distributed as dist
from prometheus_client import start_http_server

from learner.checkpoint import Checkpoints
from learner.engine import build_engine, build_frozen_engine, init_process_group, is_main
from learner.evaluation import Evaluator
from learner.feeder import Feeder, FeederState
from learner.policy import load_policy
from learner.publisher import Publisher, PublishError
from learner.scalars import ScalarLog
from learner.sequences import SequenceBuilder
from learner.streams import LearnerStreams, StoppedError
from learner.update import PolicyUpdate
from vision_sr1.chat import vision_token_ids
from vision_sr1.config import Config, ConfigError
from vision_sr1.dataset import Questions
from vision_sr1.groups import sample_version
from vision_sr1.v1 import pipeline_pb2 as pb

log = structlog.get_logger()

ACTOR_WAIT_S = 300.0


class Trainer:
    """One rank of the learner."""

    def __init__(self, config: Config) -> None:
        settings = config.learner
        if config.data.train is None:
            raise ConfigError("data.train is not set: give the prompts to learn from")
        self._config = config
        self._stopping = False
        self._checkpoints = Checkpoints(config.run.path / "checkpoints", settings.keep_checkpoints)
        latest = self._checkpoints.latest()
        if latest is not None and not settings.resume:
            raise ConfigError(
                f"run {config.run.name!r} already has checkpoint {latest}: resume it, or choose another run.name"
            )
        device = init_process_group()
        torch.manual_seed(config.run.seed)
        self._builder = SequenceBuilder(config.model)
        forbidden = vision_token_ids(self._builder.tokenizer)
        policy = load_policy(config, config.model.path, forbidden).to(device)
        self._engine = build_engine(
            config,
            policy,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            trainable=list(policy.parameters()),
        )
        state: dict[str, Any] = {"policy_version": 0, "batch": 0, "feeder": {}}
        if latest is not None:
            state = self._checkpoints.load(self._engine, latest)
            log.info("resumed", checkpoint=str(latest), policy_version=state["policy_version"])
        self.version: int = state["policy_version"]
        self._batch: int = state["batch"]
        self._learned: list[str] = []  # prompts learned from since the last checkpoint
        reference = None
        if any(component.kl_coef > 0 for component in settings.components):
            reference = build_frozen_engine(config, load_policy(config, config.model.path, forbidden), device)
        self._update = PolicyUpdate(config, self._engine, reference, self._builder, device)
        self._feeder = Feeder(
            Questions(config.data.train, config.data), config.run.seed, FeederState(**state["feeder"])
        )
        self._evaluator = Evaluator(config)
        self._publisher = Publisher(config, self._engine)
        self._streams = LearnerStreams(config, lambda: self._stopping)
        if is_main():
            self._streams.open(resume=latest is not None)
            if config.metrics.learner_port:
                start_http_server(config.metrics.learner_port, config.metrics.host)
        self._scalars = ScalarLog(config, phase="rl", total_steps=settings.batches, enabled=is_main())

    def run(self) -> bool:
        """Trains to the last batch; False where it was stopped before, with a checkpoint to resume from."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._request_stop)
        settings = self._config.learner
        try:
            self._publish()
            if self._batch == 0 or self._batch >= settings.batches:
                self._evaluate()
            if is_main():
                self._streams.feed(self._feeder.again(), pb.PURPOSE_TRAIN, self.version)
            while self._batch < settings.batches:
                self._train_batch()
                last = self._batch == settings.batches
                if last or (settings.evaluate_every and self._batch % settings.evaluate_every == 0):
                    self._evaluate()
                if last or self._batch % settings.checkpoint_every == 0:
                    self._checkpoint()
        except StoppedError:
            log.info("stopping", batch=self._batch)
            if self._learned:
                self._checkpoint()
            return False
        finally:
            self._scalars.close()
            self._streams.close()
        dist.destroy_process_group()
        return True

    def _train_batch(self) -> None:
        """Draw prompts, wait until they are answered and scored, learn from them, publish the new weights."""
        settings = self._config.learner
        started = time.monotonic()
        if is_main():
            room = (1 + settings.max_staleness) * settings.prompts_per_batch - self._feeder.in_flight
            remaining = (settings.batches - self._batch) * settings.prompts_per_batch - self._feeder.in_flight
            self._streams.feed(self._feeder.draw(max(0, min(room, remaining))), pb.PURPOSE_TRAIN, self.version)
        groups = self._collect("scored", settings.prompts_per_batch)
        rollout_seconds = time.monotonic() - started
        scalars = self._update.learn(groups, self._streams.images)
        learned = [group.id for group in groups]
        self._feeder.learned(learned)
        self._learned += learned
        self._batch += 1
        self.version += 1
        published = time.monotonic()
        self._publish()
        if is_main():
            self._streams.observe()
            now = time.monotonic()
            rollouts = sum(len(group.rollouts) for group in groups)
            scalars |= _batch_scalars(groups, self.version) | {
                "seconds/rollouts": rollout_seconds,
                "seconds/publish": now - published,
                "seconds/batch": now - started,
                "rollouts_per_second/mean": rollouts / (now - started),
                "policy/version": float(self.version),
            }
            self._scalars.log(self._batch, scalars)

    def _collect(self, stream: str, count: int) -> list[pb.ScoredGroup]:
        return self._streams.collect(stream, count, republish=self._publish, stale=self._is_fleet_stale)

    def _is_fleet_stale(self) -> bool:
        return any(actor.policy_version != self.version for actor in self._streams.alive())

    def _publish(self) -> None:
        """Sends the current version to every actor alive; tries again with the survivors where one fails.

        Raises:
            PublishError: no attempt succeeded, or there was no actor for ACTOR_WAIT_S.
            StoppedError: the learner was asked to stop while it waited for an actor.
        """
        for _ in range(self._config.learner.weights.attempts):
            if self._publisher.publish(self.version, self._wait_for_actors()):
                return
        raise PublishError(
            f"policy version {self.version} could not be published in {self._config.learner.weights.attempts} "
            "attempts; see the log for the actors and phases that failed"
        )

    def _wait_for_actors(self) -> list[pb.ActorInfo]:
        """The actors that answer; on ranks beside rank 0 an empty list."""
        deadline = time.monotonic() + ACTOR_WAIT_S
        while True:
            actors = self._publisher.reachable(self._streams.alive()) if is_main() else []
            state = torch.tensor([len(actors), int(self._stopping), int(time.monotonic() > deadline)])
            dist.broadcast(state, 0)
            if state[0]:
                return actors
            if state[1]:
                raise StoppedError
            if state[2]:
                raise PublishError(f"no actor announced itself for {ACTOR_WAIT_S:.0f} s; are the actors running?")
            time.sleep(0.5)

    def _evaluate(self) -> None:
        summary = self._evaluator(self.version, self._streams, self._collect)
        if is_main():
            scalars = {f"eval_{name}/{split}": v for split, values in summary.items() for name, v in values.items()}
            self._scalars.log(self._batch, scalars | {"policy/version": float(self.version)})
            log.info("evaluated", policy_version=self.version, **summary)

    def _checkpoint(self) -> None:
        state = {"batch": self._batch, "feeder": self._feeder.state_dict()}
        self._checkpoints.save(self._engine, self._builder.processor, self.version, state)
        if is_main():
            self._streams.acknowledge(self._learned)
        self._learned = []

    def _request_stop(self, *_: object) -> None:
        self._stopping = True


def _batch_scalars(groups: list[pb.ScoredGroup], version: int) -> dict[str, float]:
    """Rewards by name, response lengths, staleness, and the share of re-queries answered by the same weights."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    if not rollouts:
        return {"empty_groups/count": float(len(groups))}
    versions = [sample_version(r.rollout.sample) for r in rollouts]
    asked = [(r.requery.policy_version, v) for r, v in zip(rollouts, versions, strict=True) if r.HasField("requery")]
    return {
        **{f"reward/{name}": fmean(r.rewards[name] for r in rollouts) for name in sorted(rollouts[0].rewards)},
        "reward/shortcut": fmean(r.rewards["accuracy"] > 0 and r.rewards["visual"] == 0 for r in rollouts),
        "response_tokens/mean": fmean(len(r.rollout.sample.response_token_ids) for r in rollouts),
        "staleness/mean": fmean(version - 1 - v for v in versions),
        "same_weights/share": fmean(a == b for a, b in asked) if asked else 1.0,
        "empty_groups/count": float(sum(not group.rollouts for group in groups)),
    }
