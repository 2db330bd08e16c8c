"""`torchrun -m tests.learner.relayout FOLDER STAGES [section.key=value]...`: takes up a state in other layouts.

FOLDER holds groups as `write_groups` writes them. Where it has no `state` yet, the first of the STAGES trains a step
and writes it, and after another step its weights. Otherwise each of the STAGES reads the state, writes it again as it
then holds it, takes the same step and writes its weights.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from learner.engine import build_engine, init_process_group, is_main
from learner.export import export_snapshot
from learner.pieces import restore, snapshot, write_pieces
from learner.policy import load_policy
from learner.sequences import SequenceBuilder
from learner.update import PolicyUpdate
from tests.learner.groups import read_groups, read_images
from vision_sr1.config import load_config


def main() -> None:
    folder, stages, *overrides = sys.argv[1:]
    device = init_process_group()
    trains = not (Path(folder) / "state").exists()
    dist.barrier()
    for stage in stages.split(","):
        config = load_config(None, [*overrides, f"learner.zero_stage={stage}"], environment={}).config
        policy = load_policy(config, config.model.path, forbidden_token_ids=[])
        engine = build_engine(config, policy, learning_rate=1e-3, weight_decay=1e-2)
        update = PolicyUpdate(config, engine, None, SequenceBuilder(config.model), device)
        groups, images = read_groups(Path(folder)), read_images(Path(folder))
        name = f"{dist.get_world_size()}-ranks-stage-{stage}"
        if trains:
            update.learn(groups, 0, lambda _, held=images: held)
            write_pieces(snapshot(engine), Path(folder) / "state")
        else:
            torch.manual_seed(17)
            restore(engine, Path(folder) / "state")
            write_pieces(snapshot(engine), Path(folder) / f"state-{name}")
        update.learn(groups, 0, lambda _, held=images: held)
        weights = export_snapshot(policy)
        if is_main():
            save_file(weights, Path(folder) / f"{'undisturbed' if trains else name}.safetensors")


if __name__ == "__main__":
    main()
