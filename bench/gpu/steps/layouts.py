"""A step in bf16 under every ZeRO stage, from a float32 checkpoint of the CPU, against the CPU's next step.

The CPU's part runs in a process without GPUs, and goes on from the state that the first stage here writes, too: a
checkpoint is taken up in both directions.
"""

import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from bench.gpu.findings import Bench, Findings, relative_error
from bench.gpu.models import SMALL_PIXELS, tiny_model
from bench.learner_gpu import Sizes, made_groups

STAGES = (0, 1, 2, 3)
SIZES = Sizes(prompts=4, group_size=4, image_side=56, response_tokens=24)
LEARNING_RATE = 1e-3
MOMENT, DECAY = "exp_avg", 0.9  # AdamW's first moment m' = 0.9 m + 0.1 g: of two of them follows the gradient
CPU_TIMEOUT_S = 180
BEHAVIOUR_LOGPROB = -100.0  # so far below that importance weights are all at their bound, and rounding has no exponent
RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "DS_ACCELERATOR")
CPU_PART = "from bench.gpu.steps.layouts import on_the_cpu; on_the_cpu()"

Shards = dict[str, torch.Tensor]


def run(bench: Bench, findings: Findings) -> None:
    """Restored states are equal to the last bit; gradients differ by rounding."""
    from learner.distributed.ranks import init_process_group

    model = tiny_model(bench.folder / "model")
    _cpu_part(bench.folder, "first", bench.folder / "state")
    before, exact = (load_file(bench.folder / f"{name}.safetensors") for name in ("restored", "first"))
    device = init_process_group()
    for stage in STAGES:
        restored, after = _step(
            model, "bfloat16", stage, device, bench.folder / "state", bench.folder / f"state{stage}"
        )
        findings.holds(f"ZeRO {stage} restores the CPU's checkpoint to the last bit", _equal(restored, before))
        error = relative_error(_gradient(restored, after), _gradient(before, exact))
        findings.within("gradient_error", f"ZeRO {stage}: error of the gradient in bf16", error)
    torch.distributed.destroy_process_group()
    _cpu_part(bench.folder, "back", bench.folder / f"state{STAGES[-1]}")
    back = load_file(bench.folder / "restored.safetensors")
    findings.holds(f"the CPU restores the checkpoint of ZeRO {STAGES[-1]} to the last bit", _equal(back, after))


def on_the_cpu() -> None:
    """The part of the process without GPUs: writes what it restored, or learned first, and what it has a step later."""
    from safetensors.torch import save_file

    from learner.distributed.ranks import init_process_group

    words = json.loads(sys.argv[1])
    folder, state = Path(words["folder"]), Path(words["state"])
    device = init_process_group()
    restored, after = _step(folder / "model", "float32", 1, device, state, None)
    save_file(restored, folder / "restored.safetensors")
    save_file(after, folder / f"{words['name']}.safetensors")
    torch.distributed.destroy_process_group()


def _cpu_part(folder: Path, name: str, state: Path) -> None:
    words = json.dumps({"folder": str(folder), "name": name, "state": str(state)})
    environment = {key: value for key, value in os.environ.items() if key not in RANK} | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", CPU_PART, words]
    subprocess.run(command, check=True, timeout=CPU_TIMEOUT_S, env=environment)


def _step(
    model: Path, dtype: str, stage: int, device: torch.device, state: Path, written: Path | None
) -> tuple[Shards, Shards]:
    """The state that is restored (after a first step, and written, where there is none), and that after a step more."""
    from learner.distributed.deepspeed_engine import build_engine
    from learner.distributed.state_shards import restore, snapshot, write_shards
    from learner.model.policy import load_policy
    from learner.model.sequences import SequenceBuilder
    from learner.objective.update import PolicyUpdate
    from vision_sr1.config import load_config

    options = [f"model.path={model}", f"model.dtype={dtype}", f"learner.zero_stage={stage}", *SMALL_PIXELS]
    steps = [f"learner.prompts_per_batch={SIZES.prompts}", f"learner.prompts_per_step={SIZES.prompts}"]
    objective = ["learner.components=[{name: a, reward: {accuracy: 1.0}, tokens: [response], kl_coef: 0.0}]"]
    objective += ["learner.off_policy.recompute_proximal=true"]  # ratios are 1 in any dtype
    config = load_config(None, [*options, *steps, *objective], environment={}).config
    builder = SequenceBuilder(config.model)
    groups, images = made_groups(config, builder, SIZES, seed=0)
    for scored in chain.from_iterable(group.rollouts for group in groups):
        sample = scored.rollout.sample
        sample.logprobs[:] = [BEHAVIOUR_LOGPROB] * len(sample.logprobs)
    policy = load_policy(config, str(model), forbidden_token_ids=[]).to(device)
    engine = build_engine(config, policy, learning_rate=LEARNING_RATE, weight_decay=1e-2)
    update = PolicyUpdate(config, engine, None, builder, device)

    def learn() -> Any:
        return update.learn(groups, 0, lambda _: images)

    if state.exists():
        restore(engine, state)
        restored = snapshot(engine)
    else:
        learn()
        restored = snapshot(engine)
        write_shards(restored, state)
    learn()
    after = snapshot(engine)
    if written is not None:
        write_shards(after, written)
    return restored, after


def _gradient(before: Shards, after: Shards) -> torch.Tensor:
    """Of all parameters, from the first moments before and after a step."""
    names = sorted(name for name in before if name.startswith(f"{MOMENT}/"))
    parts = [(after[name] - DECAY * before[name]) / (1 - DECAY) for name in names]
    return torch.cat(parts)


def _equal(one: Shards, other: Shards) -> bool:
    """Weights and moments; generators of random numbers are a process's own."""
    return all(torch.equal(one[name], values) for name, values in other.items() if name != "rng")
