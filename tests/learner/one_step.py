"""`torchrun -m tests.learner.one_step FOLDER CUTS [section.key=value]...`: one optimizer step, for its gradient.

FOLDER holds groups as `write_groups` writes them. CUTS are like `0:210,3:210`: a ZeRO stage, and the tokens of a
micro-batch at the most. For each, rank 0 writes the gradient of every parameter to FOLDER as safetensors. It is read
from AdamW's first moment, which after one step is a tenth of the gradient, whatever the stage.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_optimizer_state
from safetensors.torch import save_file

from learner.distributed.deepspeed_engine import build_engine
from learner.distributed.ranks import init_process_group, is_main
from learner.model.policy import load_policy
from learner.model.reference import FrozenCopy
from learner.model.sequences import SequenceBuilder
from learner.objective.update import PolicyUpdate
from tests.learner.made_groups import read_groups, read_images
from vision_sr1.config import Config, load_config


def main() -> None:
    folder, cuts, *overrides = sys.argv[1:]
    device = init_process_group()
    for stage, tokens in (cut.split(":") for cut in cuts.split(",")):
        options = [f"learner.zero_stage={stage}", f"learner.micro_batch_tokens={tokens}"]
        config = load_config(None, [*overrides, *options], environment={}).config
        gradient = gradient_of_one_step(config, Path(folder), device)
        if is_main():
            save_file(gradient, gradient_file(Path(folder), dist.get_world_size(), int(stage), int(tokens)))
    dist.destroy_process_group()


def gradient_file(folder: Path, ranks: int, stage: int, tokens: int) -> Path:
    """Where the gradient goes."""
    return folder / f"{ranks}-ranks-stage-{stage}-{tokens}-tokens.safetensors"


def gradient_of_one_step(config: Config, folder: Path, device: torch.device) -> dict[str, torch.Tensor]:
    """By parameter; beside them the `loss` and this rank's number of `backward_passes`."""
    policy, reference = (load_policy(config, config.model.path, forbidden_token_ids=[]) for _ in range(2))
    engine = build_engine(config, policy, learning_rate=1e-3, weight_decay=0.0)
    backward, passes = engine.backward, 0

    def counted(*arguments: Any, **options: Any) -> None:
        nonlocal passes
        passes += 1
        backward(*arguments, **options)

    engine.backward = counted
    frozen = FrozenCopy(config, reference, device, is_initial=True)
    update = PolicyUpdate(config, engine, frozen, SequenceBuilder(config.model), device)
    scalars = update.learn(read_groups(folder), 0, lambda _: read_images(folder)).scalars
    gradient = {
        "backward_passes": torch.tensor(passes),
        "loss": torch.tensor(
            sum(scalars[f"loss/{c.name}"] for c in config.learner.components) + scalars.get("dependency/loss", 0.0)
        ),
    }
    for name, parameter in policy.named_parameters():
        if config.learner.zero_stage == 0:
            moment = engine.optimizer.state[parameter]["exp_avg"]
        else:
            moment = safe_get_full_optimizer_state(parameter, "exp_avg")
        gradient[name] = (moment.detach().float() / 0.1).clone().contiguous()
    return gradient


if __name__ == "__main__":
    main()
