"""A Prometheus beside services of this machine, with the deployed rules and a sample a second."""

import re
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import yaml

from vision_sr1.runtime.ports import free_port

CONFIG = Path(__file__).parents[1] / "deploy" / "prometheus"
RULES = CONFIG / "rules.yaml"
METRIC = re.compile(r"\b(?:vision_sr1_\w+|process_\w+)")


def alerts() -> list[dict[str, Any]]:
    """The deployed rules."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


class Prometheus:
    """Debian's server, from when it is entered to when it is left.

    Args:
        folder: for its configuration, database and log.
        ports: of this machine, by job of the deployed configuration and name of the service.
    """

    def __init__(self, folder: Path, ports: Mapping[str, Mapping[str, int]]) -> None:
        self._folder = folder
        self._targets = sum(map(len, ports.values()))
        self._url = f"http://127.0.0.1:{free_port()}"
        config = yaml.safe_load((CONFIG / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "5s"}
        config["rule_files"] = [str(RULES)]
        for job in config["scrape_configs"]:
            del job["dns_sd_configs"]
            job["static_configs"] = [
                {"targets": [f"127.0.0.1:{port}"], "labels": {"instance": name}}
                for name, port in ports[job["job_name"]].items()
            ]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))

    def __enter__(self) -> Self:
        command = [
            "prometheus",
            f"--config.file={self._folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._folder / 'tsdb'}",
            f"--web.listen-address={self._url.removeprefix('http://')}",
        ]
        with (self._folder / "prometheus.log").open("w") as log:
            self._process = subprocess.Popen(command, stderr=log)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)

    def get(self, path: str, **parameters: str | float) -> Any:
        """What its API answers."""
        reply = httpx.get(f"{self._url}/api/v1/{path}", params=parameters, timeout=30.0, trust_env=False)
        if not reply.is_success:
            raise ValueError(f"{path}: {reply.text}")
        return reply.json()["data"]

    def wait_until_all_are_up(self, timeout_s: float = 60.0) -> None:
        """Returns when every service was scraped."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                if len(self.get("query", query="up == 1")["result"]) == self._targets:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        raise TimeoutError(f"not all services were scraped: {self._folder / 'prometheus.log'}")

    def recorded(self, names: Iterable[str], start: float, end: float) -> dict[str, list[float | None]]:
        """Series as the expressions that name them; a sample a second from `start` to `end`, None where there is none.

        Args:
            names: of metrics.
            start, end: in seconds since the epoch.
        """
        query = f'{{__name__=~"{"|".join(sorted(names))}"}}'
        found: dict[str, list[float | None]] = {}
        for series in self.get("query_range", query=query, start=start, end=end, step=1)["result"]:
            labels = series["metric"]
            name = labels.pop("__name__")
            values = {round(at - start): float(value) for at, value in series["values"]}
            said = ", ".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
            found[f"{name}{{{said}}}"] = [values.get(second) for second in range(round(end - start) + 1)]
        return dict(sorted(found.items()))
