"""`torchrun -m tests.learner.distributed.skipped_step FOLDER [section.key=value]...`: a loss that one rank alone has.

FOLDER holds two batches as `write_groups` writes them, `broken` and `healthy`. The first has a rollout whose loss is
not finite, which is one rank's: the step is to be skipped on all ranks, and the next one taken, in every ZeRO stage.
"""

import sys
from functools import partial
from pathlib import Path

import torch.distributed as dist

from learner.distributed.deepspeed_engine import build_engine
from learner.distributed.gather import full_parameters
from learner.distributed.ranks import init_process_group
from learner.model.policy import load_policy
from learner.model.sequences import SequenceBuilder
from learner.objective.update import PolicyUpdate
from tests.learner.made_groups import read_groups, read_images
from vision_sr1.config import load_config


def main() -> None:
    folder, *overrides = sys.argv[1:]
    device = init_process_group()
    for stage, dtype in (
        (0, "float32"),
        (1, "float32"),
        (2, "float32"),
        (3, "float32"),
        (1, "bfloat16"),
        (2, "bfloat16"),
    ):
        options = [f"learner.zero_stage={stage}", f"model.dtype={dtype}"]
        config = load_config(None, [*overrides, *options], environment={}).config
        policy = load_policy(config, config.model.path, forbidden_token_ids=[])
        engine = build_engine(config, policy, learning_rate=1e-3, weight_decay=0.0)
        update = PolicyUpdate(config, engine, None, SequenceBuilder(config.model), device)
        taken = []
        for batch in ("broken", "healthy"):
            before = {name: value.detach().clone() for name, value in full_parameters(policy)}
            images = partial(_all_of, read_images(Path(folder) / batch))
            result = update.learn(read_groups(Path(folder) / batch), 0, images)
            after = dict(full_parameters(policy))
            is_changed = any(bool((after[name] != value).any()) for name, value in before.items())
            assert all(bool(value.isfinite().all()) for value in after.values()), (stage, dtype, batch)
            taken.append((result.skipped, is_changed))
        assert taken == [((True,), False), ((False,), True)], (stage, dtype, taken, dist.get_rank())
    dist.destroy_process_group()


def _all_of(images: dict[str, bytes], _: set[str]) -> dict[str, bytes]:
    return images


if __name__ == "__main__":
    main()
