"""The services of one run as processes of this machine: their commands, their ports, and their Redis."""

import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from urllib.request import getproxies_environment

from vision_sr1.cli.launcher.processes import ServiceProcess
from vision_sr1.cli.launcher.resources import divided, keep_ports, metrics_of_actor
from vision_sr1.config import Config, save_config
from vision_sr1.run_folder.names import LOGS, REDIS, SETTINGS
from vision_sr1.runtime.gpus import visible_gpus
from vision_sr1.runtime.parent_death import marks
from vision_sr1.runtime.ports import Ports
from vision_sr1.streams.embedded import EmbeddedRedis

RESTARTS = 5
MAIN_STOP_S = 600  # for an optimizer step and a checkpoint of a large model


class Services(ExitStack):
    """Commands and what they share. Where no Redis is configured, an embedded one runs until this is left.

    Args:
        learners, actors: how many ranks and actors are to be started, each on GPUs of its own where there are any;
            default: as configured.

    Attributes:
        config: of the run that is served, with the ports that its services have.
        redis: the embedded server; None where one is configured.

    Raises:
        ConfigError: there are GPUs, and too few; or see `keep_ports`.
    """

    def __init__(self, config: Config, *, learners: int | None = None, actors: int | None = None) -> None:
        super().__init__()
        learners = config.learner.processes if learners is None else learners
        actors = config.actors.count if actors is None else actors
        needs_redis = actors > 0
        self._gpus = divided(visible_gpus(), learners, 0 if config.actors.device == "cpu" else actors, config)
        self.redis: EmbeddedRedis | None = None
        self._ports = self.enter_context(Ports())
        self._environment: dict[str, str] = {}
        self._marks = marks(config.run.path)
        self.config = config = config.model_copy(deep=True)
        if needs_redis and config.streams.url is None:
            self.redis = EmbeddedRedis(config.run.path / REDIS, port=self._ports.keep(), marks=self._marks)
            self.enter_context(self.redis)
            self._environment = self.redis.environment
        self._kept = keep_ports(self._ports, config, learners=learners, actors=actors)
        config.reward.port = self._kept.get("reward.port", config.reward.port)
        config.metrics.learner_port = self._kept.get("metrics.learner_port", config.metrics.learner_port)
        self._file = self._saved()

    def serve(self, run: Config) -> None:
        """Has the next learner train another run, with the ports that these services have."""
        config = run.model_copy(deep=True)
        config.reward.port, config.metrics.learner_port = self.config.reward.port, self.config.metrics.learner_port
        self.config = config
        self._file = self._saved()

    def _saved(self) -> Path:
        """Writes the configuration into its run's folder, where services read it."""
        self.config.run.path.mkdir(parents=True, exist_ok=True)
        file = self.config.run.path / SETTINGS
        save_config(self.config, file)
        return file

    @property
    def environment(self) -> Mapping[str, str]:
        """What services need to find Redis, beside the configuration's file."""
        return self._environment

    def actor(self, index: int, *options: str) -> ServiceProcess:
        """The actor with this number."""
        name = f"actor-{index}"
        arguments = ["-m", "actors", str(self._file), "--id", name, *options]
        metrics = self.config.metrics
        if metrics.actor_port:
            port = self._kept.get(metrics_of_actor(index))
            arguments.append(f"metrics.actor_port={port or self._ports.keep(metrics.host, metrics.actor_port + index)}")
        return self._service(name, arguments, RESTARTS, self._gpus.get(name, ""))

    def reward_service(self, index: int = 0) -> ServiceProcess:
        """A replica of the reward service; those after the first have ports of their own."""
        arguments = ["-m", "reward_service", str(self._file)]
        if index == 0:
            return self._service("reward_service", arguments, RESTARTS)
        arguments.append(f"reward.port={self._ports.keep(self.config.reward.host)}")
        return self._service(f"reward_service-{index}", arguments, RESTARTS)

    def learner(self, *options: str) -> ServiceProcess:
        """The learner's ranks under torchrun."""
        torchrun = [
            "-m",
            "torch.distributed.run",
            f"--nproc-per-node={self.config.learner.processes}",
            "--master-addr=127.0.0.1",
            f"--master-port={self._ports.keep()}",
            f"--shutdown-timeout={MAIN_STOP_S}",
            "-m",
            "learner",
            str(self._file),
            *options,
        ]
        learner = self._service("learner", torchrun, RESTARTS, self._gpus.get("learner", ""))
        learner.wrapper_report = "failed (exitcode"
        learner.again = ("learner.resume=true",)
        return learner

    def evaluation(self, *options: str) -> ServiceProcess:
        """Who asks the questions of benchmarks."""
        return self._service("evaluation", ["-m", "vision_sr1.cli.evaluation", str(self._file), *options], RESTARTS)

    def _service(self, name: str, arguments: list[str], restarts: int, gpus: str = "") -> ServiceProcess:
        shared = {
            **({"CUDA_VISIBLE_DEVICES": gpus} if self._gpus else {}),
            "TOKENIZERS_PARALLELISM": "false",
            "VLLM_NO_USAGE_STATS": "1",
            "PYTHONWARNINGS": "ignore",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or "1",
            "no_proxy": without_proxy(getproxies_environment().get("no", "")),
        }
        if Path(self.config.model.path).is_dir():
            shared["HF_HUB_OFFLINE"] = "1"
        return ServiceProcess(
            name=name,
            command=[sys.executable, *arguments],
            environment={**shared, **self._marks, **self._environment},
            log=self.config.run.path / LOGS / f"{name}.log",
            restarts_left=restarts,
        )


def without_proxy(hosts: str) -> str:
    """`no_proxy` with this machine's own addresses: a judge or collector here is not reached through a proxy either."""
    return hosts if hosts.strip() == "*" else ",".join(filter(None, (hosts, "localhost", "127.0.0.1", "::1")))
