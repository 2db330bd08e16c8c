"""`torchrun -m tests.learner.distributed.placements FOLDER [section.key=value]...`: one reference in each of PLACES.

FOLDER holds groups as `write_groups` writes them. Each rank writes its log-probabilities of a pack of its own by place.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from learner.distributed.ranks import init_process_group
from learner.model.packing import Pack, pack
from learner.model.policy import layout_of, load_policy, rope_positions
from learner.model.reference import FrozenCopy
from learner.model.sequences import SequenceBuilder
from tests.learner.made_groups import read_groups, read_images
from vision_sr1.config import Config, load_config

PLACES = ("zero_stage=1", "zero_stage=3", "reference.placement=sharded", "reference.placement=cpu")


def main() -> None:
    folder, *overrides = sys.argv[1:]
    device = init_process_group()
    logprobs = {}
    for place in PLACES:
        config = load_config(None, [*overrides, f"learner.{place}"], environment={}).config
        model = load_policy(config, config.model.path, forbidden_token_ids=[])
        reference = FrozenCopy(config, model, device, is_initial=True)
        for pass_ in range(3):  # DeepSpeed prefetches from the third on
            logprobs[f"{place}, pass {pass_}"] = reference.logprobs(own_pack(config, Path(folder), model))
        logprobs[f"{place}, held"] = held(model)
    save_file(logprobs, Path(folder) / f"logprobs-{dist.get_rank()}.safetensors")
    dist.destroy_process_group()


def own_pack(config: Config, folder: Path, model: torch.nn.Module) -> Pack:
    """The first answers of one group, another for each rank."""
    builder = SequenceBuilder(config.model)
    images = read_images(folder)
    sequences = []
    for scored in read_groups(folder)[dist.get_rank()].rollouts[:2]:
        prompt, sample = scored.rollout.prompt, scored.rollout.sample
        encoded = builder.images([images[ref.sha256] for ref in prompt.images])
        sequences.append(builder.from_tokens(list(sample.prompt_token_ids), list(sample.response_token_ids), encoded))
    rope, layout = (lambda sequence: rope_positions(model, sequence)), (lambda *trees: layout_of(model, *trees))
    return pack(sequences, builder.filler(), rope, layout_of=layout)


def held(model: torch.nn.Module) -> torch.Tensor:
    """Elements of the weights that this rank holds between passes, without those that ZeRO-3 keeps gathered."""
    parts = [getattr(parameter, "ds_tensor", parameter).numel() for parameter in model.parameters()]
    return torch.tensor(sum(parts))


if __name__ == "__main__":
    main()
