"""`torchrun -m tests.system.publishing_learner CONFIG FOLDER`: a learner that publishes what it is told to.

A command is a file FOLDER/{number}.json, whose answer is FOLDER/{number}.done.json:

- `{"publish": 3}`: new weights, kept in FOLDER/v3.safetensors, go to the fleet as version 3. With
  `"signal": [pid, ...], "number": 9, "at_bucket": 2` the processes get that signal before the third bucket is sent.
- `{"catch_up": 3}`: version 3 goes to actors that lack it, once there are any.
- `{"write": 3}`: version 3 is written to the run's folder, for actors that come late.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator

from learner.checkpoints.hf_folder import export_policy
from learner.distributed.deepspeed_engine import build_engine
from learner.distributed.gather import full_parameters, write_parameters
from learner.distributed.ranks import init_process_group, is_main
from learner.model.policy import load_policy
from learner.model.sequences import SequenceBuilder
from learner.publishing.fleet_transfer import FleetTransfer
from learner.publishing.probe import Probe
from learner.publishing.publisher import Publisher
from learner.run_connection import RunConnection
from vision_sr1.config import load_config
from vision_sr1.data import questions
from vision_sr1.run_folder.checkpoints import POLICY
from vision_sr1.runtime.logs import configure_logging
from vision_sr1.weights.fleet_client import FleetClient

IDLE_S = 600.0


class PublishingLearner:
    """The parts of a learner that publish."""

    def __init__(self, config_path: Path, folder: Path) -> None:
        config = load_config(config_path, []).config
        configure_logging(config, "learner")
        device = init_process_group()
        self._config = config
        self._folder = folder
        self._builder = SequenceBuilder(config.model)
        forbidden = self._builder.family.reserved_token_ids(self._builder.tokenizer)
        policy = load_policy(config, config.model.path, forbidden_token_ids=forbidden)
        self._engine = build_engine(config, policy, learning_rate=1e-3, weight_decay=0.0)
        self._run = RunConnection(config, lambda: False)
        probe = Probe(config, self._engine, self._builder, questions(config), self._run.images, device)
        transfer = FleetTransfer(config, self._engine)
        self._publisher = Publisher(config, transfer, self._run.fleet, probe, is_stopping=lambda: False)
        if is_main():
            self._run.open(resume=True)

    def run(self) -> None:
        """Follows commands until there is none for IDLE_S."""
        number = 0
        while command := self._next(number):
            started = time.monotonic()
            if "publish" in command:
                self._change(command["publish"])
                self._with_fault(command)
                self._publisher.publish(command["publish"])
            elif "catch_up" in command:
                self._catch_up(command["catch_up"])
            else:
                self._write(command["write"])
            if is_main():
                done = {"seconds": time.monotonic() - started}
                (self._folder / f"{number}.done.part").write_text(json.dumps(done))
                (self._folder / f"{number}.done.part").rename(self._folder / f"{number}.done.json")
            number += 1

    def _next(self, number: int) -> dict[str, Any]:
        deadline = time.monotonic() + IDLE_S
        file = self._folder / f"{number}.json"
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        command: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return command

    def _change(self, version: int) -> None:
        torch.manual_seed(version)
        policy = self._engine.module
        weights = {
            name: tensor.detach() + 0.05 * tensor.detach().std() * torch.randn_like(tensor)
            for name, tensor in full_parameters(policy)
        }
        write_parameters(weights.items(), policy.parameters())
        if is_main():
            save_file(weights, self._folder / f"v{version}.safetensors")

    def _catch_up(self, version: int) -> None:
        deadline = time.monotonic() + IDLE_S
        while time.monotonic() < deadline:
            stale = torch.tensor(int(is_main() and self._run.fleet.is_behind(version)))
            dist.broadcast(stale, 0)
            if stale:
                self._publisher.publish(version)
                return
            time.sleep(0.2)

    def _with_fault(self, command: dict[str, Any]) -> None:
        """Has a bucket be the last thing that some processes see."""
        over_nccl = self._config.learner.weights.backend == "nccl"
        owner, name = (PyNcclCommunicator, "broadcast") if over_nccl else (FleetClient, "update_weights")
        send, sent = getattr(owner, name), 0

        def send_bucket(*arguments: Any, **options: Any) -> None:
            nonlocal sent
            if sent == command.get("at_bucket"):
                for pid in command["signal"]:
                    os.kill(pid, command["number"])
            sent += 1
            send(*arguments, **options)

        setattr(owner, name, send_bucket)

    def _write(self, version: int) -> None:
        folder = self._config.run.path / "checkpoints" / f"{version:06d}" / POLICY
        export_policy(self._engine.module, self._builder.processor, folder)
        if is_main():
            self._run.fleet.announce(version, folder)


if __name__ == "__main__":
    PublishingLearner(Path(sys.argv[1]), Path(sys.argv[2])).run()
