"""`torchrun -m tests.learner.distributed.relayout FOLDER STAGES [section.key=value]...`: a state in other layouts.

FOLDER holds groups as `write_groups` writes them, and a folder for each of DTYPES, in which all happens in that one.
Where it has no `state` yet, the first of the STAGES trains a step and writes it, and after another step its weights.
Otherwise each of the STAGES reads the state, moves it to the host's memory as for actors on the same device, writes it
again from there, moves it back, takes the same step and writes its weights.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from learner.devices.offload import Offload
from learner.distributed.deepspeed_engine import build_engine
from learner.distributed.ranks import init_process_group, is_main
from learner.distributed.state_shards import restore, snapshot, write_shards
from learner.model.policy import load_policy
from learner.model.sequences import SequenceBuilder
from learner.model.snapshots import export_snapshot
from learner.objective.update import PolicyUpdate
from tests.learner.made_groups import read_groups, read_images
from vision_sr1.config import Config, load_config

DTYPES = ("float32", "bfloat16")


def main() -> None:
    folder, stages, *overrides = sys.argv[1:]
    device = init_process_group()
    for dtype in DTYPES:
        held = Path(folder) / dtype
        trains = not (held / "state").exists()
        dist.barrier()
        for stage in stages.split(","):
            options = [f"model.dtype={dtype}", f"learner.zero_stage={stage}"]
            config = load_config(None, [*overrides, *options], environment={}).config
            take_up(config, Path(folder), held, device, trains=trains)
    dist.destroy_process_group()


def take_up(config: Config, folder: Path, held: Path, device: torch.device, *, trains: bool) -> None:
    """One stage and dtype."""
    policy = load_policy(config, config.model.path, forbidden_token_ids=[])
    engine = build_engine(config, policy, learning_rate=1e-3, weight_decay=1e-2)
    update = PolicyUpdate(config, engine, None, SequenceBuilder(config.model), device)
    groups, images = read_groups(folder), read_images(folder)
    name = f"{dist.get_world_size()}-ranks-stage-{config.learner.zero_stage}"
    if trains:
        update.learn(groups, 0, lambda _: images)
        write_shards(snapshot(engine), held / "state")
    else:
        torch.manual_seed(17)
        restore(engine, held / "state")
        memory = Offload(engine, [], device)
        memory.release()
        write_shards(snapshot(engine, memory.shards()), held / f"state-{name}")
        memory.restore()
    update.learn(groups, 0, lambda _: images)
    weights = export_snapshot(policy)
    if is_main():
        save_file(weights, held / f"{'undisturbed' if trains else name}.safetensors")


if __name__ == "__main__":
    main()
