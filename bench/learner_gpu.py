"""One RL step of Qwen2.5-VL-3B in bf16 under ZeRO-2 on this machine's GPUs: tokens/s, MFU, peak memory,
and how often the host waits for the GPU.

`python -m bench.learner_gpu [--prompts N] [--group-size N] [--image-side N] [--response-tokens N] [--steps N]`, or
under torchrun for several GPUs. Weights are random, images are noise of 1,036 x 1,036 pixels (1,369 tokens each),
responses have 512 tokens: speed and memory depend on sizes alone. Values are medians of 3 steps; one before them warms
up. Without a GPU nothing is measured, and the value is null.
"""

import argparse
import io
import json
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, Qwen2_5_VLConfig

from learner.distributed.deepspeed_engine import build_engine
from learner.distributed.ranks import init_process_group
from learner.model.flops import ModelFlops
from learner.model.policy import ATTENTION, as_policy
from learner.model.reference import FrozenCopy
from learner.model.sequences import SequenceBuilder
from learner.objective.update import PolicyUpdate
from vision_sr1.config import Config, load_config
from vision_sr1.runtime.gpus import known_gpu
from vision_sr1.v1 import pipeline_pb2 as pb

TEXT_3B: dict[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 2048,
    "intermediate_size": 11_008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128_000,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}
VISION_3B: dict[str, Any] = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 2048,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}


@dataclass(frozen=True)
class Sizes:
    """What one step learns from, and how many steps count."""

    prompts: int = 8
    group_size: int = 8
    image_side: int = 1036  # pixels
    response_tokens: int = 512
    steps: int = 3


@dataclass(frozen=True)
class Measured:
    """Medians over the steps, on all ranks together.

    Attributes:
        waits: in a further step, how often the host waited for this rank's GPU, by the line that made it wait.
    """

    tokens_per_second: float
    model_tflops: float
    peak_gib: float
    waits: Counter[str]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.learner_gpu", description=__doc__)
    for field in fields(Sizes):
        option = f"--{field.name.replace('_', '-')}"
        parser.add_argument(option, type=int, default=field.default, help="default: %(default)s")
    sizes = Sizes(**vars(parser.parse_args()))
    if not torch.cuda.is_available():
        print("no CUDA device here: nothing was measured")
        print(json.dumps({"name": "learner_tokens_per_second", "value": None, "unit": "tokens/s"}))
        return 0
    overrides = [
        "model.dtype=bfloat16",
        "learner.zero_stage=2",
        "learner.gradient_checkpointing=true",
        "learner.micro_batch_tokens=16384",
        "learner.preset=vision_sr1",
    ]
    measured = measure(TEXT_3B, VISION_3B, sizes, overrides)
    import torch.distributed as dist

    if dist.get_rank() != 0:
        return 0
    name, ranks = torch.cuda.get_device_name(), dist.get_world_size()
    gpu = known_gpu(name)
    mfu = None if gpu is None else measured.model_tflops / (gpu.tflops * ranks)
    print(f"{ranks} x {name}: {sizes}")
    print(
        f"{measured.tokens_per_second:.0f} tokens/s, {measured.model_tflops:.0f} TFLOP/s of the model's own, "
        f"MFU {'unknown: no peak known for this chip' if mfu is None else f'{mfu:.1%}'}, "
        f"peak memory {measured.peak_gib:.1f} GiB a GPU, the host waits {measured.waits.total()} times a step"
    )
    result = {
        "name": "learner_tokens_per_second",
        "value": round(measured.tokens_per_second),
        "unit": "tokens/s",
        "mfu": None if mfu is None else round(mfu, 3),
        "peak_gib": round(measured.peak_gib, 1),
        "host_waits": measured.waits.total(),
        "device": f"{ranks} x {name}",
    }
    print(json.dumps(result))
    return 0


@dataclass(frozen=True)
class Learner:
    """A learner of a randomly initialized model, with its reference policy."""

    config: Config
    builder: SequenceBuilder
    policy: torch.nn.Module
    engine: Any
    update: PolicyUpdate
    device: torch.device

    def groups(self, sizes: Sizes, seed: int) -> tuple[list[pb.ScoredGroup], dict[str, bytes]]:
        """A batch of its own for each seed, with its images."""
        return made_groups(self.config, self.builder, sizes, seed)

    def learn(self, batch: tuple[list[pb.ScoredGroup], dict[str, bytes]]) -> None:
        """One optimizer step."""
        groups, images = batch
        self.update.learn(groups, 0, lambda _: images)


def make_learner(text: dict[str, Any], vision: dict[str, Any], sizes: Sizes, overrides: list[str]) -> Learner:
    """A learner whose language model and vision tower have these sizes."""
    from vision_sr1.cli.tasks.distributions import TASKS, corpus
    from vision_sr1.cli.tasks.tiny_model import make_tiny_model

    device = init_process_group()
    with tempfile.TemporaryDirectory() as folder:
        make_tiny_model(Path(folder), corpus(TASKS["shapes"], rows=200))
        steps = [f"learner.prompts_per_batch={sizes.prompts}", f"learner.prompts_per_step={sizes.prompts}"]
        config = load_config(None, [f"model.path={folder}", *steps, *overrides], environment={}).config
        builder = SequenceBuilder(config.model)
        architecture = scaled(AutoConfig.from_pretrained(folder), text, vision)

    def policy() -> torch.nn.Module:
        with device:
            model = AutoModelForImageTextToText.from_config(
                architecture, dtype=getattr(torch, config.model.dtype), attn_implementation=ATTENTION
            )
        return as_policy(config, model, forbidden_token_ids=[])

    trained = policy()
    engine = build_engine(config, trained, learning_rate=1e-6, weight_decay=1e-2)
    reference = FrozenCopy(config, policy(), device, is_initial=True)
    update = PolicyUpdate(config, engine, reference, builder, device)
    return Learner(config, builder, trained, engine, update, device)


def measure(text: dict[str, Any], vision: dict[str, Any], sizes: Sizes, overrides: list[str]) -> Measured:
    """Steps of a model of these sizes."""
    learner = make_learner(text, vision, sizes, overrides)
    model_flops = ModelFlops(learner.policy, forward_passes=1)
    on_gpu = learner.device.type == "cuda"
    rates, flops = [], []
    for step in range(1 + sizes.steps):
        batch = learner.groups(sizes, seed=step)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        learner.learn(batch)
        if on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        trees = list(_trees(batch[0]))
        rates.append(sum(len(prompt) * len(responses) + sum(responses) for prompt, responses in trees) / seconds)
        flops.append(model_flops(trees) / seconds / 1e12)
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0
    with host_waits() as waits:
        learner.learn(batch)
    return Measured(median(rates[1:]), median(flops[1:]), peak, waits)


@contextmanager
def host_waits() -> Iterator[Counter[str]]:
    """Counts within it where operations have the host wait for the GPU, as torch warns of; on CPUs there are none."""
    places: Counter[str] = Counter()
    if not torch.cuda.is_available():
        yield places
        return
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield places
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found = (warning for warning in caught if "synchronizing CUDA operation" in str(warning.message))
    places.update(f"{Path(warning.filename).name}:{warning.lineno}" for warning in found)


def scaled(tiny: Qwen2_5_VLConfig, text: dict[str, Any], vision: dict[str, Any]) -> Qwen2_5_VLConfig:
    """The configuration with other sizes, and the special tokens and patches it has."""
    derived = {"layer_types", "max_window_layers"}  # follow from the number of layers
    inner = {key: value for key, value in tiny.text_config.to_dict().items() if key not in derived}
    kept = ("image_token_id", "video_token_id", "vision_start_token_id", "tie_word_embeddings")
    return Qwen2_5_VLConfig(
        text_config=inner | text,
        vision_config=tiny.vision_config.to_dict() | vision,
        **{key: getattr(tiny, key) for key in kept},
    )


def made_groups(config: Config, builder: Any, sizes: Sizes, seed: int) -> tuple[list[pb.ScoredGroup], dict[str, bytes]]:
    """Groups of random responses to images of noise."""
    rng = np.random.default_rng(seed)
    images, groups = {}, []
    for number in range(sizes.prompts):
        buffer = io.BytesIO()
        noise = rng.integers(0, 255, (sizes.image_side, sizes.image_side, 3), dtype=np.uint8)
        Image.fromarray(noise).save(buffer, format="PNG")
        name = f"{seed}/{number}"
        images[name] = buffer.getvalue()
        turn = [{"role": "user", "content": "<image>describe"}, {"role": "assistant", "content": "red"}]
        sequence = builder.from_messages(turn, [images[name]])
        prompt_ids = sequence.token_ids[: sequence.selected[0]].tolist()
        group = pb.ScoredGroup(id=f"0/{number}")
        for _ in range(sizes.group_size):
            scored = group.rollouts.add()
            scored.rollout.prompt.images.add(sha256=name)
            scored.rollout.sample.CopyFrom(_sample(rng, prompt_ids, sizes.response_tokens))
            scored.requeries.add().sample.CopyFrom(_sample(rng, prompt_ids[-4:] * 40, sizes.response_tokens // 2))
            scored.description.CopyFrom(pb.TokenSpan(start=0, end=sizes.response_tokens // 2))
            for reward in config.reward.names:
                scored.rewards[reward] = float(rng.integers(0, 2))
        groups.append(group)
    return groups, images


def _sample(rng: np.random.Generator, prompt_ids: list[int], length: int) -> pb.Sample:
    return pb.Sample(
        prompt_token_ids=prompt_ids,
        response_token_ids=rng.integers(10, 90, length).tolist(),
        logprobs=[-12.0] * length,
        versions=[pb.VersionSpan(policy_version=0, end=length)],
    )


def _trees(groups: list[pb.ScoredGroup]) -> Iterator[tuple[list[int], list[int]]]:
    """Each prompt once, with the lengths of its responses."""
    for group in groups:
        lengths = [len(scored.rollout.sample.response_token_ids) for scored in group.rollouts]
        yield list(group.rollouts[0].rollout.sample.prompt_token_ids), lengths
        for requery in (requery for scored in group.rollouts for requery in scored.requeries):
            yield list(requery.sample.prompt_token_ids), [len(requery.sample.response_token_ids)]


if __name__ == "__main__":
    sys.exit(main())
