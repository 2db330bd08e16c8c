"""Supervised fine-tuning: cross-entropy on the assistant's tokens. Makes the tiny base model and the cold start."""

import math
import signal
from collections.abc import Iterator
from functools import partial

import numpy as np
import structlog
import torch
import torch.distributed as dist
from jaxtyping import Float
from prometheus_client import Counter
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from learner.checkpoints.hf_folder import export_policy
from learner.checkpoints.saver import Checkpoints
from learner.distributed.deepspeed_engine import build_engine
from learner.distributed.optimizer_step import OptimizerStep, nan_unless_finite
from learner.distributed.ranks import init_process_group, is_main
from learner.metrics.scalars import ScalarLog
from learner.model.packing import micro_batches, pack
from learner.model.policy import choose_trainable, layout_of, load_policy, rope_positions, token_logprobs
from learner.model.sequences import Sequence, SequenceBuilder, SequenceError
from learner.stop_conditions import DivergedError, StopConditions
from learner.stop_request import StopRequest
from vision_sr1.config import Config, ConfigError
from vision_sr1.data import ConversationRow, DataError, Mixture, conversations
from vision_sr1.run_folder.atomic import aside
from vision_sr1.run_folder.names import SFT_OUTPUT

log = structlog.get_logger()

REFUSED = Counter(
    "vision_sr1_learner_conversations_refused",
    "Conversations that could not be used, counted each time they are drawn.",
)


class SftTrainer:
    """One rank of the supervised stage: trains `model.path` and writes the result to `learner.sft.output`.

    Raises:
        ConfigError: no data, an output folder that exists, or a checkpoint that is not to be resumed, or cannot be.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stop = StopRequest()
        self._settings = settings = config.learner.sft
        if not config.data.sft:
            raise ConfigError("data.sft is not set: give the conversations to learn from")
        self._output = settings.output or config.run.path / SFT_OUTPUT
        if self._output.exists():
            raise ConfigError(f"{self._output} already exists; remove it or choose another learner.sft.output")
        self._checkpoints = Checkpoints(config, stage="sft")
        latest = self._checkpoints.to_resume()
        self._device = init_process_group()
        torch.manual_seed(config.run.seed)
        self._builder = SequenceBuilder(config.model)
        model = load_policy(config, config.model.path, forbidden_token_ids=[]).to(self._device)
        choose_trainable(model, config.learner.lora, freeze_vision=settings.freeze_vision)
        self._engine = build_engine(
            config, model, learning_rate=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self._optimizer_step = OptimizerStep(self._engine)
        self._rope, self._layout_of = partial(rope_positions, model), partial(layout_of, model)
        self._filler = self._builder.filler()
        self._data = _Sequences(conversations(config.data.sft, config.data, config.run.seed), self._builder)
        held_out = config.data.sft_evaluation
        self._held_out: _Sequences | None = None
        if held_out:
            self._held_out = _Sequences(conversations(held_out, config.data, config.run.seed), self._builder)
        self._step = 0
        self._drawn = 0  # conversations, over all epochs
        self._refused = 0  # of those drawn last, one after the other
        in_a_row: dict[str, int] = {}
        if latest is not None:
            state = self._checkpoints.load(self._engine, latest)
            self._step, self._refused = state["step"], state.get("refused", 0)
            self._drawn = state.get("drawn", self._step * settings.sequences_per_step)
            in_a_row = state.get("in_a_row", {})
            log.info("resumed", message="Resumed from a checkpoint", checkpoint=str(latest), step=self._step)
        self._stop_conditions = StopConditions(config.learner.stop_when, in_a_row)
        self._diverged: str | None = None  # why the stage is to end
        remaining = settings.epochs * len(self._data) - self._drawn
        self._steps = settings.steps or self._step + max(0, math.ceil(remaining / settings.sequences_per_step))
        self._scalars = ScalarLog(config, phase="sft", total_steps=self._steps, enabled=is_main())

    def run(self) -> bool:
        """Trains to the last step; False where it was stopped before, with a checkpoint to resume from.

        Raises:
            DataError: a whole epoch, or all that was drawn, has no conversation that can be used.
            DivergedError: several steps in a row had to be skipped; see `learner.stop_when`.
        """
        self._stop.listen()
        settings = self._settings
        with self._scalars:
            for batch in self._batches():
                is_stopping = self._learn(batch)
                if is_stopping or self._diverged:
                    self._checkpoint()
                    self._checkpoints.finalize(wait=True, last=True)
                    if self._diverged:
                        raise DivergedError(
                            f"learner.stop_when ended the stage after step {self._step}: {self._diverged}. Its last "
                            "checkpoint has the state before them: --resume continues from it with other settings"
                        )
                    return False
                self._checkpoints.finalize()
                last = self._step == self._steps
                if last or (settings.evaluate_every and self._step % settings.evaluate_every == 0):
                    self._evaluate()
                if not last and settings.checkpoint_every and self._step % settings.checkpoint_every == 0:
                    self._checkpoint()
        self._checkpoints.finalize(wait=True, last=True)
        place = aside(self._output)
        export_policy(self._engine.module, self._builder.processor, place)
        if is_main():
            place.rename(self._output)
            log.info(
                "sft_finished",
                message="Supervised fine-tuning wrote its model",
                steps=self._steps,
                output=str(self._output),
            )
        dist.destroy_process_group()
        return True

    def _learn(self, batch: list[Sequence | str]) -> bool:
        """One optimizer step on this rank's share of a batch; whether any rank was asked to stop.

        Where no rank has a conversation that can be used, the weights stay as they are.
        """
        for group in self._engine.optimizer.param_groups:
            group["lr"] = self._settings.learning_rate * _schedule(self._step, self._steps, self._settings.warmup_ratio)
        usable = [sequence for sequence in batch if isinstance(sequence, Sequence)]
        counts = [sum(len(s.selected) for s in usable), len(usable), len(batch), self._stop()]
        agreed = torch.tensor(counts, dtype=torch.float64)
        dist.all_reduce(agreed)
        tokens, used, drawn, stopping = agreed.tolist()
        refused = drawn - used
        REFUSED.inc(refused)
        self._step += 1
        self._drawn += int(drawn)
        self._refused = 0 if used else self._refused + int(refused)
        scalars = {"sft/tokens": tokens, "sft/refused": refused}
        if used:
            scalars |= self._take(usable, tokens)
        else:
            log.warning(
                "sft_step_skipped",
                message="The step has no usable conversation; the weights stay as they are",
                step=self._step,
            )
            self._require_usable(batch)
        self._scalars.log(self._step, scalars)
        return bool(stopping)

    def _take(self, usable: list[Sequence], tokens: float) -> dict[str, float]:
        """The optimizer step; returns its scalars."""
        loss = torch.zeros((), device=self._device)
        for members in micro_batches([len(s) for s in usable], self._config.learner.micro_batch_tokens):
            part = self._loss([usable[i] for i in members]) / tokens
            self._engine.backward(nan_unless_finite(part) * dist.get_world_size(), scale_wrt_gas=False)
            loss += part.detach()
        norm = self._optimizer_step()
        self._diverged = self._stop_conditions.batch([norm is None], {})
        dist.all_reduce(loss)
        scalars = {"sft/loss": float(loss), "optimizer/skipped_steps": float(norm is None)}
        scalars["optimizer/learning_rate"] = self._engine.optimizer.param_groups[0]["lr"]
        return scalars if norm is None else scalars | {"grad_norm/mean": norm}

    def _require_usable(self, batch: list[Sequence | str]) -> None:
        """Ends the stage where an epoch, or all that it draws, has nothing to learn from: every rank alike."""
        if self._refused >= len(self._data) or (self._step == self._steps and self._refused == self._drawn):
            reasons = [reason for reason in batch if isinstance(reason, str)]
            last = f"; the last: {reasons[-1]}" if reasons else ""
            raise DataError(f"data.sft: none of the {self._refused} conversations drawn last can be used{last}")

    def _evaluate(self) -> None:
        """Mean cross-entropy and perplexity over the held-out conversations' tokens."""
        if self._held_out is None:
            return
        rank, ranks, size = dist.get_rank(), dist.get_world_size(), self._settings.sequences_per_step
        total = torch.zeros(3, device=self._device, dtype=torch.float64)
        for first in range(0, len(self._held_out), size):
            rows = [self._held_out[i] for i in range(first + rank, min(first + size, len(self._held_out)), ranks)]
            batch = [sequence for sequence in rows if isinstance(sequence, Sequence)]
            total[2] += len(rows) - len(batch)
            for members in micro_batches([len(s) for s in batch], self._config.learner.micro_batch_tokens):
                with torch.no_grad():
                    total[0] += self._loss([batch[i] for i in members])
                total[1] += sum(len(batch[i].selected) for i in members)
        dist.all_reduce(total)
        summed, tokens, refused = total.tolist()
        REFUSED.inc(refused)
        if not tokens:
            log.error(
                "sft_evaluation_empty",
                message="Skipping the evaluation: data.sft_evaluation has no usable conversation",
                refused=refused,
            )
            return
        loss = summed / tokens
        scalars = {"loss": loss, "perplexity": math.exp(loss), "refused": refused}
        self._scalars.log(self._step, {f"sft_evaluation/{name}": value for name, value in scalars.items()})
        if is_main():
            log.info("evaluated", message="Finished an evaluation", step=self._step, loss=loss)

    def _loss(self, sequences: list[Sequence]) -> Float[Tensor, ""]:
        return -token_logprobs(
            self._engine, pack(sequences, self._filler, self._rope, layout_of=self._layout_of), self._device
        ).sum()

    def _checkpoint(self) -> None:
        state = {
            "step": self._step,
            "drawn": self._drawn,
            "refused": self._refused,
            "in_a_row": self._stop_conditions.in_a_row,
            "healthy": self._stop_conditions.is_healthy,
        }
        self._checkpoints.begin(self._engine, self._builder.processor, self._step, state)

    def _batches(self) -> Iterator[list[Sequence | str]]:
        """This rank's shares of the batches still to come, in an order that the seed decides, epoch after epoch."""
        rank, ranks, size, rows = dist.get_rank(), dist.get_world_size(), self._settings.sequences_per_step, self._data
        end = self._drawn + max(0, self._steps - self._step) * size
        order = np.concatenate(
            [
                epoch * len(rows) + np.random.default_rng((self._config.run.seed, epoch)).permutation(len(rows))
                for epoch in range(-(-end // len(rows)))
            ]
        )
        shares = [order[first + rank : first + size : ranks].tolist() for first in range(self._drawn, end, size)]
        loader: DataLoader[Sequence | str] = DataLoader(
            rows,
            batch_sampler=shares,
            collate_fn=list,
            num_workers=1,
            prefetch_factor=4,
            worker_init_fn=_leave_signals_to_the_trainer,
        )
        return iter(loader)


class _Sequences(Dataset[Sequence | str]):
    """Conversations as sequences, made in a worker beside the training step; the reason for one that cannot be used.

    Rows are counted on from epoch to epoch.
    """

    def __init__(self, rows: Mixture[ConversationRow], builder: SequenceBuilder) -> None:
        self._rows = rows
        self._builder = builder

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sequence | str:
        epoch, row = divmod(index, len(self._rows))
        try:
            found = self._rows.at(epoch, row)
            return self._builder.from_messages(found.messages, found.images)
        except (SequenceError, DataError) as error:
            log.error(
                "conversation_refused",
                message="The conversation cannot be used and is skipped",
                epoch=epoch,
                row=row,
                error=str(error),
            )
            return str(error)


def _leave_signals_to_the_trainer(_: int) -> None:
    """torchrun tells all of a rank's processes to stop; the data worker is needed until the step is done."""
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)


def _schedule(step: int, steps: int, warmup_ratio: float) -> float:
    """Linear warm-up, then cosine down to a tenth."""
    warmup = max(1, round(steps * warmup_ratio))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress))
