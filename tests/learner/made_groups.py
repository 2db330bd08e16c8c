"""Scored groups made for tests of the learner: prompts of the shapes task, answered and scored at random."""

import hashlib
from pathlib import Path

import numpy as np

from learner.model.sequences import SequenceBuilder
from vision_sr1.config import Config
from vision_sr1.data import Conversations
from vision_sr1.v1 import pipeline_pb2 as pb


def make_groups(
    config: Config, conversations: Path, prompts: int, group_size: int
) -> tuple[list[pb.ScoredGroup], dict[str, bytes]]:
    """Groups whose rollouts have random responses, log-probabilities and rewards, and their images by hash."""
    rng = np.random.default_rng(0)
    builder = SequenceBuilder(config.model)
    read = Conversations(str(conversations), config.data)
    rows = (row for index in range(len(read)) if (row := read[index]).images)
    images: dict[str, bytes] = {}
    groups = []
    for number, row in zip(range(prompts), rows, strict=False):
        sequence = builder.from_messages(row.messages, row.images)
        prompt_ids = sequence.token_ids[: sequence.selected[0]].tolist()
        sha = hashlib.sha256(row.images[0]).hexdigest()
        images[sha] = row.images[0]
        group = pb.ScoredGroup(id=f"0/{number}")
        for index in range(group_size):
            length = int(rng.integers(6, 40))
            scored = group.rollouts.add()
            scored.rollout.sample_index = index
            scored.rollout.prompt.images.add(sha256=sha)
            scored.rollout.sample.CopyFrom(_sample(rng, prompt_ids, length))
            for reward in config.reward.names:
                scored.rewards[reward] = float(rng.integers(0, 2))
            if index % 3:  # some have no description
                scored.description.CopyFrom(pb.TokenSpan(start=1, end=length // 2))
                scored.think.CopyFrom(pb.TokenSpan(start=length // 2, end=length - 2))
                scored.answer.CopyFrom(pb.TokenSpan(start=length - 2, end=length))
                requery = scored.requeries.add(
                    rewards={name: scored.rewards[name] for name in ("visual", "requery_format")}
                )
                requery.sample.CopyFrom(_sample(rng, prompt_ids[-4:], int(rng.integers(3, 12))))
        groups.append(group)
    return groups, images


def write_groups(folder: Path, groups: list[pb.ScoredGroup], images: dict[str, bytes]) -> None:
    """Into a folder that `read_groups` and `read_images` read."""
    for group in groups:
        (folder / f"{group.id.replace('/', '-')}.group").write_bytes(group.SerializeToString())
    for sha, image in images.items():
        (folder / f"{sha}.image").write_bytes(image)


def read_groups(folder: Path) -> list[pb.ScoredGroup]:
    """The groups of a folder, in the order of their names."""
    return [pb.ScoredGroup.FromString(file.read_bytes()) for file in sorted(folder.glob("*.group"))]


def read_images(folder: Path) -> dict[str, bytes]:
    """The images of a folder by their hash."""
    return {file.stem: file.read_bytes() for file in folder.glob("*.image")}


def _sample(rng: np.random.Generator, prompt_ids: list[int], length: int) -> pb.Sample:
    return pb.Sample(
        prompt_token_ids=prompt_ids,
        response_token_ids=rng.integers(10, 90, length).tolist(),
        logprobs=rng.normal(-4.5, 0.3, length).tolist(),
        versions=[pb.VersionSpan(policy_version=0, end=length)],
        finish_reason="stop",
    )
