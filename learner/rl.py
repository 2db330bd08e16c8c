"""The RL loop: draw prompts, have them answered and scored, learn from them, publish the new weights."""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NoReturn

import structlog
import torch
import torch.distributed as dist
from prometheus_client import Counter
from redis.exceptions import RedisError

from learner.checkpoints.best import BestScore
from learner.checkpoints.covered_prompts import CoveredPrompts
from learner.checkpoints.saver import Checkpoints
from learner.devices.offload import Offload
from learner.devices.turns import OwnDevices, SharedDevices, Turns
from learner.distributed.deepspeed_engine import build_engine
from learner.distributed.rank_collectives import any_rank, main_rank
from learner.distributed.ranks import init_process_group, is_first_of_node, is_main
from learner.evaluation import Evaluator, PendingEvaluation
from learner.groups.collector import ActorBehind, GroupsComplete, PendingGroups, PromptsLost, StopRequested
from learner.groups.feeder import Feeder
from learner.metrics.batch_scalars import batch_scalars
from learner.metrics.scalars import ScalarLog
from learner.model.policy import choose_trainable, load_policy
from learner.model.reference import build_reference
from learner.model.sequences import SequenceBuilder
from learner.objective.samples import group_has_signal
from learner.objective.update import PolicyUpdate, UpdateResult
from learner.publishing.fleet_transfer import FleetTransfer
from learner.publishing.probe import Probe
from learner.publishing.publisher import Publisher
from learner.run_connection import RunConnection
from learner.stop_conditions import DivergedError, StopConditions
from learner.stop_request import StoppedError, StopRequest
from learner.trainer_state import TrainerState, UnfinishedBatch
from vision_sr1.config import Config, ConfigError
from vision_sr1.data import QuestionRow, questions
from vision_sr1.data.lengths import PromptLengths
from vision_sr1.run_folder.checkpoints import POLICY, REFERENCE, newest_healthy, newest_whole
from vision_sr1.run_folder.ledger import Ledger
from vision_sr1.runtime.probes import Probes
from vision_sr1.runtime.tracing import span
from vision_sr1.v1 import pipeline_pb2 as pb

log = structlog.get_logger()

DROPPED = Counter("vision_sr1_learner_zero_advantage_groups", "Zero-advantage groups that were dropped.")


class Trainer:
    """One rank of the learner.

    Raises:
        ConfigError: there is no data, or a checkpoint that is not to be resumed, or cannot be.
        DataError: a data set cannot be read.
    """

    def __init__(self, config: Config) -> None:
        settings = config.learner
        if not config.data.train:
            raise ConfigError("data.train is not set: give the prompts to learn from")
        self._config = config
        self._stop = StopRequest()
        self._checkpoints = Checkpoints(config, stage="rl")
        latest = self._checkpoints.to_resume()
        device = init_process_group()
        torch.manual_seed(config.run.seed)
        self._run = RunConnection(config, self._stop)
        self._turns: Turns = OwnDevices()
        if config.actors.placement == "shared":
            self._turns = SharedDevices(config, self._run.fleet, device, self._stop)
        self._turns.take()
        self._builder = SequenceBuilder(config.model)
        forbidden = self._builder.family.reserved_token_ids(self._builder.tokenizer)
        load = partial(load_policy, config, forbidden_token_ids=forbidden, temperature=config.sampling.temperature)
        policy = load(config.model.path).to(device)
        choose_trainable(policy, settings.lora, freeze_vision=settings.freeze_vision)
        self._engine = build_engine(
            config, policy, learning_rate=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self._state = TrainerState()
        if latest is not None:
            self._state = TrainerState.from_state_dict(self._checkpoints.load(self._engine, latest))
            log.info(
                "resumed",
                message="Resumed from a checkpoint",
                checkpoint=str(latest),
                policy_version=self._state.policy_version,
            )
        self._score = BestScore(settings.keep_best, self._state.best)
        self._stop_conditions = StopConditions(settings.stop_when, self._state.in_a_row)
        self._covered = CoveredPrompts()
        self._reference = build_reference(config, self._engine, load, latest, device)
        frozen = [] if self._reference is None else [self._reference.model]
        self._turns.offloads(Offload(self._engine, frozen, device))
        self._update = PolicyUpdate(config, self._engine, self._reference, self._builder, device)
        rows = questions(config, PromptLengths(config, self._builder.processor).check)
        self._feeder = Feeder(rows, config.run.seed, self._state.feeder)
        self._ledger = Ledger(config.run.path)
        self._evaluator = Evaluator(config)
        self._evaluation: PendingEvaluation | None = None  # of the policy as it is now, while it is under way
        probe = Probe(config, self._engine, self._builder, rows, self._run.images, device)
        self._publisher = Publisher(
            config, FleetTransfer(config, self._engine), self._run.fleet, probe, is_stopping=self._stop
        )
        if is_main():
            self._run.open(resume=latest is not None)
        if is_first_of_node() and config.metrics.learner_port:
            probes = Probes()
            probes.not_ready = ""  # all is loaded, and the streams answer
            probes.serve(config.metrics.host, config.metrics.learner_port)
        self._scalars = ScalarLog(config, phase="rl", total_steps=settings.batches, enabled=is_main())

    def run(self) -> bool:
        """Trains to the last batch; False where it was stopped before, with a checkpoint to resume from.

        Raises:
            DivergedError: it stopped by itself; see `learner.stop_when`.
        """
        self._stop.listen()
        try:
            self._begin()
            while self._state.batch < self._config.learner.batches:
                self._train_batch()
                self._finalize_checkpoint()
                self._evaluate_and_checkpoint()
            self._complete()
        except StoppedError:
            self._stop_here()
            return False
        finally:
            self._scalars.close()
            self._run.close()
        dist.destroy_process_group()
        return True

    def _train_batch(self) -> None:
        """One batch, from the draw of its prompts to the weights that it made.

        Raises:
            StoppedError: the learner was asked to stop; `unfinished` says where in the batch.
            DivergedError: the batch exceeded a limit of `learner.stop_when`; its weights are not published.
        """
        started = time.monotonic()
        groups = self._answered_and_scored()
        rollout_seconds = time.monotonic() - started
        if self._finish_evaluation() and self._state.batch and self._checkpoint_is_due():
            self._checkpoint()
        self._turns.take()
        learned = self._learn(groups)
        reason = self._stop_conditions.batch(learned.skipped, learned.scalars)
        self._turns.give()
        published = time.monotonic()
        try:
            if reason is None:
                self._publish()
        finally:  # a learner that is stopped while it waits for an actor has learned all the same
            now = time.monotonic()
            rollouts = sum(len(group.rollouts) for group in groups)
            timings = {
                "seconds/rollouts": rollout_seconds,
                "seconds/publish": now - published,
                "seconds/batch": now - started,
                "rollouts_per_second/mean": rollouts / (now - started),
                "policy/version": float(self._state.policy_version),
            }
            scalars = learned.scalars | batch_scalars(groups, self._config.learner) | timings | self._turns.scalars()
            self._scalars.log(self._state.batch, scalars)
        if reason is not None:
            self._end_diverged(reason)

    def _answered_and_scored(self) -> list[pb.ScoredGroup]:
        """A batch of groups in an order of its own, whatever order they came in; see `GroupsConfig`."""
        settings = self._config.learner
        if self._state.unfinished is not None:
            prompts = self._state.unfinished.prompts
            by_id = {group.id: group for group in self._collect(prompts, len(prompts))}
            return [by_id[prompt_id] for prompt_id in prompts]
        batch: list[pb.ScoredGroup] = []
        for attempt in range(1 + settings.groups.replacement_rounds):
            self._draw()
            had = {group.id for group in batch}
            outstanding = [prompt_id for prompt_id in self._feeder.outstanding if prompt_id not in had]
            groups = self._collect(outstanding, settings.prompts_per_batch - len(batch))
            dropped: list[pb.ScoredGroup] = []
            for group in groups:
                keep = not settings.groups.dynamic_sampling or group_has_signal(group, settings)
                (batch if keep else dropped).append(group)
            self._done_with(dropped)
            DROPPED.inc(len(dropped))
            if len(batch) == settings.prompts_per_batch:
                break
            log.info(
                "zero_advantage_groups",
                message="Groups have no advantage in any component; drawing others in their place",
                dropped=len(dropped),
                kept=len(batch),
                attempt=attempt + 1,
            )
        return _in_own_order(batch)

    def _draw(self) -> None:
        """Issues as many prompts as the staleness bound and the rest of the run leave room for."""
        if not is_main():
            return
        settings = self._config.learner
        room = (1 + settings.max_staleness) * settings.prompts_per_batch
        remaining = (settings.batches - self._state.batch) * settings.prompts_per_batch
        count = max(0, min(room, remaining) - self._feeder.in_flight)
        with self._unless_stopping():
            self._run.issue(self._feeder.draw(count), pb.PURPOSE_TRAIN, self._state.policy_version)

    def _collect(self, prompt_ids: list[str], count: int) -> list[pb.ScoredGroup]:
        """So many of these prompts' groups."""
        pending = PendingGroups(pb.PURPOSE_TRAIN, self._state.policy_version, set(prompt_ids), self._feeder.is_to_come)
        return self._wait(pending, count, self._feeder.row)

    def _wait(self, pending: PendingGroups, count: int, row: Callable[[str], QuestionRow]) -> list[pb.ScoredGroup]:
        """Waits for groups, and does meanwhile what has to be done.

        Raises:
            StoppedError: the learner was asked to stop.
        """
        groups: list[pb.ScoredGroup] = []
        for event in self._run.collector.events(pending, count):
            match event:
                case GroupsComplete():
                    groups = event.groups
                case PromptsLost():
                    if is_main():
                        lost = [(prompt_id, row(prompt_id)) for prompt_id in event.prompt_ids]
                        self._run.issue(lost, pending.purpose, pending.policy_version)
                case ActorBehind():
                    self._publish()
                case StopRequested():
                    raise StoppedError
            self._finalize_checkpoint()
        return groups

    def _learn(self, groups: list[pb.ScoredGroup]) -> UpdateResult:
        """The batch's optimizer steps, which make the next policy version."""
        settings, state = self._config.learner, self._state
        learned = self._update.learn(
            groups,
            state.policy_version,
            lambda sha256s: self._run.images.read(sha256s, lambda: [self._feeder.row(group.id) for group in groups]),
            first_step=state.unfinished.steps if state.unfinished else 0,
            # Proximal log-probabilities are those of the policy before the batch, which a resumed learner lacks.
            interrupted=(lambda: False) if settings.off_policy.recompute_proximal else lambda: any_rank(self._stop()),
        )
        if not learned.is_whole:
            self._stop_conditions.batch(learned.skipped, {})
            state.unfinished = UnfinishedBatch([group.id for group in groups], learned.steps)
            raise StoppedError
        state.unfinished = None
        state.batch += 1
        state.policy_version += 1
        self._score.policy_changed()
        self._done_with(groups)
        refresh_every = settings.reference.refresh_every
        if self._reference is not None and refresh_every and state.batch % refresh_every == 0:
            self._reference.refresh(self._engine.module)
        if is_main():
            self._record(groups)
        return learned

    def _done_with(self, groups: list[pb.ScoredGroup]) -> None:
        """These groups were learned from, or left out; the next checkpoint says so."""
        ids = [group.id for group in groups]
        self._feeder.learned(ids)
        self._covered.learned(ids)

    def _record(self, groups: list[pb.ScoredGroup]) -> None:
        """Which prompts the batch learned from: in the ledger, and on the trace of each."""
        batch = self._state.batch
        self._ledger.record(batch, self._state.policy_version, {group.id: len(group.rollouts) for group in groups})
        for prompt in (group.rollouts[0].rollout.prompt for group in groups if group.rollouts):
            with span("learn", prompt.traceparent, prompt=prompt.id):
                log.debug("learned", message="The batch learned from this prompt", batch=batch)

    def _publish(self) -> None:
        self._publisher.publish(self._state.policy_version)

    def _begin(self) -> None:
        """Publishes the version to start from, and issues what is outstanding."""
        self._turns.give()
        self._publish()
        if self._state.evaluating or self._state.batch >= self._config.learner.batches:
            self._begin_evaluation()
        if is_main():
            self._run.issue(self._feeder.again(), pb.PURPOSE_TRAIN, self._state.policy_version)

    def _evaluate_and_checkpoint(self) -> None:
        """After a batch, what is due then; after the last one, both."""
        settings, batch = self._config.learner, self._state.batch
        last = batch == settings.batches
        if last or (settings.evaluate_every and batch % settings.evaluate_every == 0):
            self._begin_evaluation()
        if last:
            self._finish_evaluation()
        if last or (self._evaluation is None and self._checkpoint_is_due()):
            self._checkpoint()

    def _complete(self) -> None:
        """The end of a run: its last checkpoint is on the disk, and nothing stays in Redis."""
        self._finish_evaluation()
        self._finalize_checkpoint(wait=True, last=True)
        if is_main():
            with self._unless_stopping():
                self._run.finish()

    def _stop_here(self) -> None:
        """The end of a learner that was asked to stop: what it has learned is on the disk."""
        log.info("stopping", message="Stopping at the request of a signal", batch=self._state.batch)
        self._finalize_checkpoint(wait=True)
        if self._covered or self._state.unfinished:
            self._checkpoint()
        self._finalize_checkpoint(wait=True, last=True)

    def _end_diverged(self, reason: str) -> NoReturn:
        """The end of a run that stops by itself, with its state on the disk."""
        batch, run = self._state.batch, self._config.run.path
        log.error("diverged", message="The run stops by learner.stop_when", batch=batch, reason=reason)
        self._finalize_checkpoint(wait=True)
        self._checkpoint()
        self._finalize_checkpoint(wait=True, last=True)
        newest, healthy = newest_whole(run), newest_healthy(run)
        way_out = "--resume continues from it with other settings"
        if healthy is not None:
            way_out += f"; run.name=OTHER model.path={healthy / POLICY} starts from the last healthy one"
        raise DivergedError(
            f"learner.stop_when ended the run after batch {batch}: {reason}. Checkpoint {newest} has its state: "
            + way_out
        )

    def _begin_evaluation(self) -> None:
        """Issues its questions together with the next batch's prompts: the actors stand still for neither."""
        version = self._state.policy_version
        self._evaluation = self._evaluator.begin(version, self._run.leadership.attempt, self._run.issue)
        self._state.evaluating = self._evaluation is not None

    def _finish_evaluation(self) -> bool:
        """Waits for its answers: nothing is learned before, so all are by one policy. Whether one was under way."""
        if self._evaluation is None:
            return False
        pending = self._evaluation
        answers = self._wait(pending.groups, len(pending.rows), pending.rows.__getitem__)
        self._evaluation, self._state.evaluating = None, False
        if is_main():
            batch, version = self._state.batch, self._state.policy_version
            evaluated = self._evaluator.finish(pending, answers)
            scalars = {f"eval_{name}/{e.split}": value for e in evaluated for name, value in e.metrics.items()}
            self._scalars.log(batch, scalars | {"policy/version": float(version)})
            for found in evaluated:
                self._scalars.show(batch, f"samples/{found.split}", found.samples)
            log.info(
                "evaluated",
                message="Finished an evaluation",
                policy_version=version,
                **{e.split: e.metrics for e in evaluated},
            )
            self._score.evaluated(scalars)
        return True

    def _checkpoint_is_due(self) -> bool:
        """By the clock, for a policy better than those before, or to release what fills Redis; rank 0 decides."""
        due = self._state.batch % self._config.learner.checkpoint_every == 0
        if is_main():
            due |= self._score.is_better()
            if not due and self._run.session.memory_is_scarce():
                log.warning(
                    "redis_nearly_full",
                    message="Redis is nearly full; writing a checkpoint to release learned groups",
                    batch=self._state.batch,
                )
                due = True
        return bool(main_rank(int(due)))

    def _checkpoint(self) -> None:
        """Begins to write the state as it is now."""
        self._finalize_checkpoint(wait=True)
        self._score.keep()
        self._state.best = self._score.best
        self._state.in_a_row = self._stop_conditions.in_a_row
        held = {
            "learned": self._covered.hold(),
            "score": self._score.current,
            "healthy": self._stop_conditions.is_healthy,
        }
        also = {}
        if self._reference is not None and (weights := self._reference.snapshot(self._turns.read)) is not None:
            also[REFERENCE] = (self._reference.model, weights)
        self._checkpoints.begin(
            self._engine,
            self._builder.processor,
            self._state.policy_version,
            self._state.state_dict() | held,
            also,
            self._turns.shards(),
        )

    def _finalize_checkpoint(self, *, wait: bool = False, last: bool = False) -> None:
        """Removes from the streams what a checkpoint holds, once it is on the disk."""
        folder = self._checkpoints.finalize(wait=wait, last=last)
        if folder is None:
            return
        held = self._covered.release()
        if not is_main():
            return
        with self._unless_stopping():
            if folder.name == f"{self._state.policy_version:06d}":
                self._run.fleet.announce(self._state.policy_version, folder / POLICY)
            self._run.training_groups.acknowledge(held)

    @contextlib.contextmanager
    def _unless_stopping(self) -> Iterator[None]:
        """A learner that is to stop does so though Redis is out of reach; the next one finds out what is unsaid."""
        try:
            yield
        except RedisError as error:
            if not self._stop():
                raise
            log.warning("stopping_without_redis", message="Stopping while Redis is out of reach", error=str(error))


def _in_own_order(groups: list[pb.ScoredGroup]) -> list[pb.ScoredGroup]:
    """Sorted by a hash of their ids: neither by arrival, which chance decides, nor as the data set is sorted."""
    return sorted(groups, key=lambda group: hashlib.sha256(group.id.encode()).digest())
