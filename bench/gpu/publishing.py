"""A policy in a step's own process, and what publishes it to actors."""

import time
from pathlib import Path
from typing import Any

import torch

from bench.fleet import Actors
from learner.publishing.fleet_transfer import FleetTransfer
from vision_sr1.v1.pipeline_pb2 import ActorInfo

CHANGE = 0.05  # of a parameter's spread


class Publishing:
    """A policy under DeepSpeed on the first device.

    Attributes:
        transfer: to the actors that `serve` was called with last.
    """

    def __init__(self, actors: Actors) -> None:
        from learner.distributed.deepspeed_engine import build_engine
        from learner.distributed.ranks import init_process_group
        from learner.model.policy import load_policy

        self.device = init_process_group()
        self._model = Path(actors.config.model.path)
        self.policy: Any = load_policy(actors.config, str(self._model), forbidden_token_ids=[]).to(self.device)
        self.engine = build_engine(actors.config, self.policy, learning_rate=1e-6, weight_decay=0.0)
        self.serve(actors)

    def serve(self, actors: Actors) -> None:
        """Publishes to these from now on."""
        self.transfer = FleetTransfer(actors.config, self.engine)

    def send(self, version: int, actors: list[ActorInfo]) -> float:
        """Publishes the weights; returns how long that took, in seconds.

        Raises:
            RuntimeError: an actor did not take them.
        """
        started = time.monotonic()
        if not self.transfer.send(version, self.transfer.reachable(actors)):
            raise RuntimeError(f"version {version} was not taken by {self.transfer.lost or 'an actor'}")
        return time.monotonic() - started

    def change(self, every: int = 1) -> None:
        """Moves one parameter in so many at random."""
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in list(self.policy.parameters())[::every]:
                parameter.add_(CHANGE * parameter.std() * torch.randn_like(parameter))

    def save(self, folder: Path) -> str:
        """Writes a checkpoint that transformers loads, and returns its folder."""
        folder.mkdir()
        for file in self._model.iterdir():
            if file.suffix != ".safetensors":
                (folder / file.name).write_bytes(file.read_bytes())
        self.policy.save_pretrained(folder)
        return str(folder)
