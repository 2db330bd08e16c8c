"""A row's batches with TRL's GRPOTrainer, in a process of its own with two threads."""

import io
import os
import resource
import tempfile
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from bench.peers.work import Run, Work

THREADS = 2
LARGEST_MICRO_BATCH = 32  # sequences; TRL fills all up to the longest


def train(work: Work, model: Path, questions: Path, batches: int) -> Run:
    """So many batches and one before them, which warms up, in this process."""
    torch.set_num_threads(THREADS)
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a newer vLLM, which it is not to use here
        from trl import GRPOConfig, GRPOTrainer
    from datasets import Dataset
    from transformers import TrainerCallback

    from vision_sr1.config import load_config
    from vision_sr1.data import Questions
    from vision_sr1.prompting.prompt_template import IMAGE_MARKER

    config = load_config(None, ["learner.preset=see_think"], environment={}).config
    (component,) = config.learner.components
    rows = Questions(str(questions), config.data)
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

        def on_step_end(self, _arguments: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step % work.steps == 0:
                ends.append(time.perf_counter())

    def prompts() -> Any:
        for index in range((batches + 1) * work.prompts):
            row = rows[index % len(rows)]
            text = row.question.replace(IMAGE_MARKER, "")
            image = Image.open(io.BytesIO(row.images[0])).convert("RGB")
            yield {"prompt": [{"role": "user", "content": text}], "image": image, "answer": row.answer}

    step = work.rollouts // work.steps
    micro_batch = min(step, LARGEST_MICRO_BATCH)
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=str(model),
            reward_funcs=is_right,
            args=GRPOConfig(
                output_dir=folder,
                use_cpu=True,
                bf16=work.dtype == "bfloat16",
                gradient_checkpointing=False,
                model_init_kwargs={"dtype": "float32"},
                per_device_train_batch_size=micro_batch,
                gradient_accumulation_steps=step // micro_batch,
                steps_per_generation=work.rollouts // micro_batch,
                num_generations=work.group_size,
                max_completion_length=work.tokens,
                max_steps=(batches + 1) * work.steps,
                temperature=1.0,
                top_p=1.0,
                beta=component.kl_coef,
                epsilon=component.clip_ratio_low,
                epsilon_high=component.clip_ratio_high,
                learning_rate=1e-4,
                lr_scheduler_type="constant",
                weight_decay=0.0,
                shuffle_dataset=False,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_generator(prompts, cache_dir=folder),
            callbacks=[Clock()],
        )
        trainer.train()
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return Run([after - before for before, after in pairwise(ends[1:])], peak_mb)


def is_right(completions: list[list[dict[str, str]]], answer: list[str], **_: object) -> list[float]:
    """The answer's reward, by exact comparison."""
    from vision_sr1.prompting.response import parse_response

    given = (parse_response(completion[0]["content"].encode()).answer for completion in completions)
    return [float(said == right) for said, right in zip(given, answer, strict=True)]
