"""Supervised fine-tuning: cross-entropy on the assistant's tokens. Makes the tiny base model and the cold start."""

import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import structlog
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset

from learner.engine import build_engine, init_process_group, is_main
from learner.export import export_policy
from learner.packing import micro_batches, pack
from learner.policy import freeze_vision, load_policy, rope_positions, token_logprobs
from learner.scalars import ScalarLog
from learner.sequences import Sequence, SequenceBuilder, SequenceError
from vision_sr1.config import Config, ConfigError
from vision_sr1.dataset import Conversations

log = structlog.get_logger()


def run_sft(config: Config) -> None:
    """Trains `model.path` on `data.sft` and writes the result in Hugging Face format to `learner.sft.output`.

    Raises:
        ConfigError: no data, or an output folder that exists with something in it.
    """
    settings = config.learner.sft
    if config.data.sft is None:
        raise ConfigError("data.sft is not set: give the conversations to learn from")
    output = settings.output or config.run.path / "sft"
    if output.exists():
        raise ConfigError(f"{output} already exists; remove it or choose another learner.sft.output")
    device = init_process_group()
    torch.manual_seed(config.run.seed)
    builder = SequenceBuilder(config.model)
    model = load_policy(config, config.model.path, forbidden_token_ids=[])
    model.to(device)
    if settings.freeze_vision:
        freeze_vision(model)
    data = _Sequences(Conversations(config.data.sft, config.data), builder)
    steps = settings.steps or math.ceil(settings.epochs * len(data) / settings.sequences_per_step)
    engine = build_engine(config, model, learning_rate=settings.learning_rate, weight_decay=settings.weight_decay)
    scalars = ScalarLog(config, phase="sft", total_steps=steps, enabled=is_main())
    rope, filler = partial(rope_positions, model), builder.filler()
    for step, batch in enumerate(_batches(data, steps, settings.sequences_per_step, config.run.seed)):
        for group in engine.optimizer.param_groups:
            group["lr"] = settings.learning_rate * _schedule(step, steps, settings.warmup_ratio)
        tokens = torch.tensor(float(sum(len(s.selected) for s in batch)), device=device)
        dist.all_reduce(tokens)
        loss = torch.zeros((), device=device)
        for members in micro_batches([len(s) for s in batch], config.learner.micro_batch_tokens):
            logprobs = token_logprobs(engine, pack([batch[i] for i in members], filler, rope), device)
            part = -logprobs.sum() / tokens
            engine.backward(part * dist.get_world_size(), scale_wrt_gas=False)
            loss += part.detach()
        engine.step()
        dist.all_reduce(loss)
        scalars.log(step + 1, {"sft/loss": float(loss), "sft/tokens": float(tokens)})
    aside = output.with_name(f".writing-{output.name}")
    export_policy(engine.module, builder.processor, aside)
    if is_main():
        aside.rename(output)
    scalars.close()
    if is_main():
        log.info("sft finished", steps=steps, output=str(output))
    dist.destroy_process_group()


class _Sequences(Dataset[Sequence]):
    """Conversations as sequences, made in a worker process beside the training step."""

    def __init__(self, conversations: Conversations, builder: SequenceBuilder) -> None:
        self._conversations = conversations
        self._builder = builder

    def __len__(self) -> int:
        return len(self._conversations)

    def __getitem__(self, index: int) -> Sequence:
        row = self._conversations[index]
        try:
            return self._builder.from_messages(row.messages, row.images)
        except SequenceError as error:
            raise SequenceError(f"row {index}: {error}") from None


def _batches(data: _Sequences, steps: int, size: int, seed: int) -> Iterator[list[Sequence]]:
    """This rank's share of `steps` batches, in an order that the seed decides, epoch after epoch."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    order = np.concatenate(
        [np.random.default_rng((seed, epoch)).permutation(len(data)) for epoch in range(-(-steps * size // len(data)))]
    )
    loader: DataLoader[list[Sequence]] = DataLoader(
        data,
        batch_sampler=[order[i * size + rank : (i + 1) * size : ranks].tolist() for i in range(steps)],
        collate_fn=list,
        num_workers=1,
        prefetch_factor=4,
    )
    return iter(loader)


def _schedule(step: int, steps: int, warmup_ratio: float) -> float:
    """Linear warm-up, then cosine down to a tenth."""
    warmup = max(1, round(steps * warmup_ratio))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress))
