"""The RL loop, in the words of the design: draw, answer, score, learn, publish."""

import contextlib
import hashlib
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import structlog
import torch
import torch.distributed as dist
from prometheus_client import Counter
from redis.exceptions import RedisError

from learner.checkpoints.saver import Checkpoints
from learner.distributed.deepspeed_engine import build_engine
from learner.distributed.rank_collectives import any_rank, main_rank
from learner.distributed.ranks import init_process_group, is_first_of_node, is_main
from learner.evaluation import Evaluator
from learner.groups.feeder import Feeder, FeederState
from learner.groups.streams import Asked, LearnerStreams, StoppedError
from learner.metrics.scalars import ScalarLog
from learner.model.policy import choose_trainable, load_policy
from learner.model.reference import BaseWeights, FrozenCopy, Reference
from learner.model.sequences import SequenceBuilder
from learner.objective.samples import group_has_signal
from learner.objective.update import PolicyUpdate
from learner.publishing.fleet_transfer import FleetTransfer
from learner.publishing.probe import Probe
from learner.publishing.publisher import Publisher
from vision_sr1.config import Config, ConfigError, LearnerConfig
from vision_sr1.data import questions
from vision_sr1.data.lengths import PromptLengths
from vision_sr1.pipeline.groups import sample_version
from vision_sr1.prompting.chat import vision_token_ids
from vision_sr1.run_folder.checkpoints import POLICY
from vision_sr1.run_folder.ledger import Ledger
from vision_sr1.runtime.probes import Probes
from vision_sr1.runtime.tracing import span
from vision_sr1.streams import BlobMissingError
from vision_sr1.v1 import pipeline_pb2 as pb

log = structlog.get_logger()

DROPPED = Counter("vision_sr1_learner_groups_without_signal", "Groups left out because nothing in them differs.")

_REFERENCE = "reference"  # folder in a checkpoint; there once the reference is not the initial policy


@dataclass(frozen=True)
class Unfinished:
    """A batch in whose midst the learner was stopped: its prompts in its own order, and the steps already taken."""

    prompts: list[str]
    steps: int


class Trainer:
    """One rank of the learner."""

    def __init__(self, config: Config) -> None:
        settings = config.learner
        if not config.data.train:
            raise ConfigError("data.train is not set: give the prompts to learn from")
        self._config = config
        self._stopping = False
        self._checkpoints = Checkpoints(config, stage="rl")
        latest = self._checkpoints.to_resume()
        device = init_process_group()
        torch.manual_seed(config.run.seed)
        self._builder = SequenceBuilder(config.model)
        forbidden = vision_token_ids(self._builder.tokenizer)
        load = partial(load_policy, config, forbidden_token_ids=forbidden, temperature=config.sampling.temperature)
        policy = load(config.model.path).to(device)
        choose_trainable(policy, settings.lora, freeze_vision=settings.freeze_vision)
        self._engine = build_engine(
            config, policy, learning_rate=settings.learning_rate, weight_decay=settings.weight_decay
        )
        state: dict[str, Any] = {"policy_version": 0, "batch": 0, "feeder": {}, "unfinished": None, "best": None}
        state["evaluating"] = True  # the policy that a run begins with is evaluated too
        if latest is not None:
            state = self._checkpoints.load(self._engine, latest)
            log.info("resumed", checkpoint=str(latest), policy_version=state["policy_version"])
        self.version: int = state["policy_version"]
        self._batch: int = state["batch"]
        self._unfinished = Unfinished(**state["unfinished"]) if state["unfinished"] else None
        self._best: float | None = state["best"]
        self._score: float | None = None  # of the policy as it is now, where it was evaluated
        self._evaluates_first: bool = state.get("evaluating", False)
        self._evaluation: Asked | None = None  # of the policy as it is now, while it is under way
        self._learned: list[str] = []  # prompts learned from since the last checkpoint was begun
        self._held: list[str] = []  # prompts that the checkpoint being written holds, or those that failed would
        self._reference: Reference | None = None
        if any(component.kl_coef > 0 for component in settings.components):
            self._reference = self._make_reference(load, latest, device)
        self._update = PolicyUpdate(config, self._engine, self._reference, self._builder, device)
        rows = questions(config, PromptLengths(config, self._builder.processor).check)
        self._feeder = Feeder(rows, config.run.seed, FeederState(**state["feeder"]))
        self._ledger = Ledger(config.run.path)
        self._evaluator = Evaluator(config)
        self._streams = LearnerStreams(config, lambda: self._stopping)
        probe = Probe(config, self._engine, self._builder, rows, device)
        self._publisher = Publisher(config, FleetTransfer(config, self._engine), self._streams, probe)
        if is_main():
            self._streams.open(resume=latest is not None)
        if is_first_of_node() and config.metrics.learner_port:
            probes = Probes()
            probes.not_ready = ""  # all is loaded, and the streams answer
            probes.serve(config.metrics.host, config.metrics.learner_port)
        self._scalars = ScalarLog(config, phase="rl", total_steps=settings.batches, enabled=is_main())

    def _make_reference(self, load: Callable[[str], Any], checkpoint: Path | None, device: torch.device) -> Reference:
        settings = self._config.learner
        if settings.lora.rank and not settings.reference.refresh_every:
            return BaseWeights(self._engine, device)
        refreshed = checkpoint / _REFERENCE if checkpoint is not None else None
        path = str(refreshed) if refreshed is not None and refreshed.is_dir() else self._config.model.path
        return FrozenCopy(self._config, load(path), device, is_initial=path == self._config.model.path)

    def run(self) -> bool:
        """Trains to the last batch; False where it was stopped before, with a checkpoint to resume from."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._request_stop)
        settings = self._config.learner
        try:
            self._publish()
            if self._evaluates_first or self._batch >= settings.batches:
                self._begin_evaluation()
            if is_main():
                self._streams.feed(self._feeder.again(), pb.PURPOSE_TRAIN, self.version)
            while self._batch < settings.batches:
                self._train_batch()
                self._settle()
                last = self._batch == settings.batches
                if last or (settings.evaluate_every and self._batch % settings.evaluate_every == 0):
                    self._begin_evaluation()
                if last:
                    self._finish_evaluation()
                if last or (self._evaluation is None and self._checkpoint_is_due()):
                    self._checkpoint()
            self._finish_evaluation()
            self._settle(wait=True, last=True)
            if is_main():
                with self._unless_stopping():
                    self._streams.finish()
        except StoppedError:
            log.info("stopping", batch=self._batch)
            self._settle(wait=True)
            if self._held or self._learned or self._unfinished:
                self._checkpoint()
            self._settle(wait=True, last=True)
            return False
        finally:
            self._scalars.close()
            self._streams.close()
        dist.destroy_process_group()
        return True

    def _train_batch(self) -> None:
        """Draw prompts, wait until they are answered and scored, learn from them, publish the new weights.

        Raises:
            StoppedError: the learner was asked to stop; `_unfinished` says where in the batch.
        """
        settings = self._config.learner
        started = time.monotonic()
        groups = self._collect_batch()
        rollout_seconds = time.monotonic() - started
        if self._finish_evaluation() and self._batch and self._checkpoint_is_due():
            self._checkpoint()
        learned = self._update.learn(
            groups,
            self.version,
            partial(self._images, groups),
            first_step=self._unfinished.steps if self._unfinished else 0,
            # Proximal log-probabilities are those of the policy before the batch, which a resumed learner lacks.
            interrupted=(lambda: False) if settings.off_policy.recompute_proximal else self._is_stopped_anywhere,
        )
        ids = [group.id for group in groups]
        if not learned.is_whole:
            self._unfinished = Unfinished(ids, learned.steps)
            raise StoppedError
        self._unfinished = None
        self._score = None
        self._let_go(groups)
        self._batch += 1
        self.version += 1
        refresh_every = settings.reference.refresh_every
        if self._reference is not None and refresh_every and self._batch % refresh_every == 0:
            self._reference.refresh(self._engine.module)
        if is_main():
            self._record(groups)
        published = time.monotonic()
        try:
            self._publish()
        finally:  # a learner that is stopped while it waits for an actor has learned all the same
            now = time.monotonic()
            rollouts = sum(len(group.rollouts) for group in groups)
            timings = {
                "seconds/rollouts": rollout_seconds,
                "seconds/publish": now - published,
                "seconds/batch": now - started,
                "rollouts_per_second/mean": rollouts / (now - started),
                "policy/version": float(self.version),
            }
            self._scalars.log(self._batch, learned.scalars | _batch_scalars(groups, settings) | timings)

    def _record(self, groups: list[pb.ScoredGroup]) -> None:
        """Which prompts the batch learned from: in the ledger, and on the trace of each."""
        self._ledger.record(self._batch, self.version, {group.id: len(group.rollouts) for group in groups})
        for prompt in (group.rollouts[0].rollout.prompt for group in groups if group.rollouts):
            with span("learn", prompt.traceparent, prompt=prompt.id):
                log.debug("learned from", batch=self._batch)

    def _collect_batch(self) -> list[pb.ScoredGroup]:
        """A batch of groups in an order of its own, whatever order they came in; see `GroupsConfig`."""
        settings = self._config.learner
        if self._unfinished is not None:
            prompts = self._unfinished.prompts
            by_id = {group.id: group for group in self._collect(prompts, len(prompts))}
            return [by_id[prompt_id] for prompt_id in prompts]
        batch: list[pb.ScoredGroup] = []
        for attempt in range(1 + settings.groups.replacement_rounds):
            self._feed()
            had = {group.id for group in batch}
            outstanding = [prompt_id for prompt_id in self._feeder.outstanding if prompt_id not in had]
            groups = self._collect(outstanding, settings.prompts_per_batch - len(batch))
            dropped: list[pb.ScoredGroup] = []
            for group in groups:
                keep = not settings.groups.drop_without_signal or group_has_signal(group, settings)
                (batch if keep else dropped).append(group)
            self._let_go(dropped)
            DROPPED.inc(len(dropped))
            if len(batch) == settings.prompts_per_batch:
                break
            log.info("groups without signal", dropped=len(dropped), kept=len(batch), attempt=attempt + 1)
        return _in_own_order(batch)

    def _images(self, groups: list[pb.ScoredGroup], sha256s: Iterable[str]) -> dict[str, bytes]:
        """Encoded images by their hash: from Redis, and from the data set where Redis has lost them."""
        wanted = list(sha256s)
        try:
            return self._streams.images(wanted)
        except BlobMissingError as error:
            log.warning("images are read from the data set again", error=str(error))
        images = (image for group in groups for image in self._feeder.row(group.id).images)
        found = {hashlib.sha256(image).hexdigest(): image for image in images}
        return {sha256: found[sha256] for sha256 in wanted}

    def _feed(self) -> None:
        """Issues as many prompts as the staleness bound and the rest of the run leave room for."""
        if not is_main():
            return
        settings = self._config.learner
        room = (1 + settings.max_staleness) * settings.prompts_per_batch
        remaining = (settings.batches - self._batch) * settings.prompts_per_batch
        count = max(0, min(room, remaining) - self._feeder.in_flight)
        with self._unless_stopping():
            self._streams.feed(self._feeder.draw(count), pb.PURPOSE_TRAIN, self.version)

    def _let_go(self, groups: list[pb.ScoredGroup]) -> None:
        """These groups are done with; the next checkpoint says so."""
        ids = [group.id for group in groups]
        self._feeder.learned(ids)
        self._learned += ids

    def _publish(self) -> None:
        self._publisher.publish(self.version)

    def _collect(self, prompt_ids: Iterable[str], count: int) -> list[pb.ScoredGroup]:
        """So many of these prompts' groups."""
        return self._wait_for(
            Asked("scored", pb.PURPOSE_TRAIN, self.version, set(prompt_ids), self._feeder.row, self._feeder.is_to_come),
            count,
        )

    def _wait_for(self, asked: Asked, count: int) -> list[pb.ScoredGroup]:
        return self._streams.collect(
            asked,
            count,
            republish=self._publish,
            stale=partial(self._publisher.is_stale, self.version),
            meanwhile=self._settle,
        )

    def _begin_evaluation(self) -> None:
        """Issues its questions together with the next batch's prompts: the actors stand still for neither."""
        self._evaluation = self._evaluator.begin(self.version, self._streams)

    def _finish_evaluation(self) -> bool:
        """Waits for its answers: nothing is learned before, so all are by one policy. Whether one was under way."""
        if self._evaluation is None:
            return False
        evaluated = self._evaluator.finish(self._evaluation, self._wait_for)
        self._evaluation = None
        if is_main():
            scalars = {f"eval_{name}/{e.split}": value for e in evaluated for name, value in e.metrics.items()}
            self._scalars.log(self._batch, scalars | {"policy/version": float(self.version)})
            for found in evaluated:
                self._scalars.show(self._batch, f"samples/{found.split}", found.samples)
            log.info("evaluated", policy_version=self.version, **{e.split: e.metrics for e in evaluated})
            self._score = self._score_in(scalars)
        return True

    def _score_in(self, scalars: dict[str, float]) -> float | None:
        name = self._config.learner.keep_best
        if name is None:
            return None
        if name not in scalars:
            known = ", ".join(sorted(scalars)) or "none, for data.evaluation is empty"
            raise ConfigError(f"learner.keep_best: no evaluation gives {name!r}; known: {known}")
        return scalars[name]

    def _checkpoint_is_due(self) -> bool:
        """By the clock, for a policy better than those before, or to let go of what fills Redis; rank 0 decides."""
        due = self._batch % self._config.learner.checkpoint_every == 0
        if is_main():
            due |= self._is_best()
            if not due and self._streams.memory_is_scarce():
                log.warning("Redis is nearly full: a checkpoint lets go of what was learned from", batch=self._batch)
                due = True
        return bool(main_rank(int(due)))

    def _is_best(self) -> bool:
        """Whether the policy as it is now was evaluated, and is better than all that checkpoints have held."""
        return self._score is not None and (self._best is None or self._score > self._best)

    def _checkpoint(self) -> None:
        """Begins to write the state as it is now."""
        self._settle(wait=True)
        self._held, self._learned = self._held + self._learned, []
        if self._is_best():
            self._best = self._score
        state = {
            "policy_version": self.version,
            "batch": self._batch,
            "feeder": self._feeder.state_dict(),
            "unfinished": asdict(self._unfinished) if self._unfinished else None,
            "learned": self._held,
            "best": self._best,
            "score": self._score,
            "evaluating": self._evaluation is not None,
        }
        also = {}
        if self._reference is not None and (weights := self._reference.snapshot()) is not None:
            also[_REFERENCE] = (self._reference.model, weights)
        self._checkpoints.begin(self._engine, self._builder.processor, self.version, state, also)

    def _settle(self, *, wait: bool = False, last: bool = False) -> None:
        """Lets go of what a checkpoint holds, once it is on disk."""
        folder = self._checkpoints.settle(wait=wait, last=last)
        if folder is None:
            return
        held, self._held = self._held, []
        if not is_main():
            return
        with self._unless_stopping():
            if folder.name == f"{self.version:06d}":
                self._streams.published(self.version, folder / POLICY)
            self._streams.acknowledge(held)

    @contextlib.contextmanager
    def _unless_stopping(self) -> Iterator[None]:
        """A learner that is to stop does so though Redis is out of reach; the next one finds out what is unsaid."""
        try:
            yield
        except RedisError as error:
            if not self._stopping:
                raise
            log.warning("stopping without Redis", error=str(error))

    def _is_stopped_anywhere(self) -> bool:
        return any_rank(self._stopping)

    def _request_stop(self, *_: object) -> None:
        self._stopping = True


def _in_own_order(groups: list[pb.ScoredGroup]) -> list[pb.ScoredGroup]:
    """Sorted by a hash of their ids: neither by arrival, which chance decides, nor as the data set is sorted."""
    return sorted(groups, key=lambda group: hashlib.sha256(group.id.encode()).digest())


def _batch_scalars(groups: list[pb.ScoredGroup], settings: LearnerConfig) -> dict[str, float]:
    """Rewards by name, of those that are not missing, lengths, and the share of re-queries by the same weights."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    if not rollouts:
        return {"empty_groups/count": float(len(groups))}
    signal = fmean(group_has_signal(group, settings) for group in groups)
    names = sorted({name for r in rollouts for name in (*r.rewards, *r.missing)})
    given = {name: [r.rewards[name] for r in rollouts if name in r.rewards] for name in names}
    both = [r.rewards for r in rollouts if "accuracy" in r.rewards and "visual" in r.rewards]
    same = [q.policy_version == sample_version(r.rollout.sample) for r in rollouts for q in r.requeries]
    return {
        **{f"reward/{name}": fmean(values) for name, values in given.items() if values},
        **{f"reward_missing/{name}": 1 - len(values) / len(rollouts) for name, values in given.items()},
        "reward/shortcut": fmean(r["accuracy"] > 0 and r["visual"] == 0 for r in both) if both else 0.0,
        "response_tokens/mean": fmean(len(r.rollout.sample.response_token_ids) for r in rollouts),
        "groups_with_signal/share": signal,
        "same_weights/share": fmean(same) if same else 1.0,
        "empty_groups/count": float(sum(not group.rollouts for group in groups)),
    }
