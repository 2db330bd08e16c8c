"""Dockerfile, scripts and the Compose file, as far as they can be checked without an engine."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.vision_sr1.test_packaging import locked
from vision_sr1.config import Config, load_config
from vision_sr1.runtime.ports import free_port
from vision_sr1.streams.embedded import EmbeddedRedis

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
SCRIPTS = [
    ROOT / ".ci/run",
    *(p for p in (ROOT / "scripts").iterdir() if not p.suffix),
    *(p for p in DEPLOY.rglob("*") if p.is_file() and p.read_bytes().startswith(b"#!")),
]

IMAGES = {"actor": "actor", "learner": "learner", "reward-service": "reward"}  # and their names in the locks


def tool(name: str, *arguments: object) -> None:
    """Runs a linter; its complaints are the failure's text."""
    done = subprocess.run([Path(sys.executable).with_name(name), *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def deployed_config(path: Path, folder: Path) -> Config:
    """A configuration of `deploy/config` as an image's services read it."""
    copy = folder / "run.yaml"
    copy.write_text(path.read_text().replace("/opt/vision-sr1/examples", str(ROOT / "examples")))
    return load_config(copy, [], environment={}).config


def test_the_dockerfile_follows_good_practice():
    tool("hadolint", DEPLOY / "docker" / "Dockerfile")


def test_scripts_are_sound():
    assert len(SCRIPTS) >= 5
    tool("shellcheck", *SCRIPTS)


def test_what_the_images_need_is_sent_to_their_build():
    """Every path that the Dockerfile copies is among those that .dockerignore lets through."""
    copied = re.findall(r"^COPY (?!--from)(\S+)", (DEPLOY / "docker" / "Dockerfile").read_text(), re.MULTILINE)
    sent = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    missing = [path for path in copied if path != "." and not any(path.startswith(top) for top in sent)]
    assert missing == []
    assert all((ROOT / path).exists() for path in sent)


def test_nothing_is_installed_into_the_images_themselves():
    """Packages and their builds are of stages that no image ends with."""
    stages = re.split(r"^FROM ", (DEPLOY / "docker" / "Dockerfile").read_text(), flags=re.MULTILINE)[1:]
    names = {stage.splitlines()[0].partition(" AS ")[2] for stage in stages if re.search("apt-get|pip install", stage)}
    assert names == {"build", "list", *(f"{service}-packages" for service in IMAGES)}


def test_images_with_triton_have_the_c_code_that_it_compiles():
    """Built with an image's packages, and named in the environment of its service."""
    text = (DEPLOY / "docker" / "Dockerfile").read_text()
    stages = {stage.split()[2]: stage for stage in re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]}

    def environment(name: str) -> str:
        stage = stages.get(name, "")
        return stage and stage + environment(stage.split()[0])

    with_triton = {image for image, name in IMAGES.items() if name in locked("gpu")["triton"]}
    assert with_triton == {"actor", "learner"}
    assert {image for image in IMAGES if "actors.vllm.triton_cache" in stages[f"{image}-packages"]} == with_triton
    manager = "TRITON_CACHE_MANAGER=actors.vllm.triton_cache:PrebuiltCacheManager"
    assert {image for image in IMAGES if manager in environment(image)} == with_triton


def test_compose_is_as_its_specification_says():
    tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_what_compose_mounts_and_asks_of_the_environment_is_there():
    text = COMPOSE.read_text()
    mounted = re.findall(r"- (?:\$\{\w+:-)?(\./[\w./-]+)", text)
    assert [path for path in mounted if path != "./data" and not (DEPLOY / path).exists()] == []
    example = dict(re.findall(r"^(\w+)=(.*)$", (DEPLOY / ".env.example").read_text(), re.MULTILINE))
    asked = set(re.findall(r"\$\{(\w+)", text))
    assert asked - example.keys() == {"OMP_NUM_THREADS"}
    assert example.keys() <= asked
    assert set(re.findall(r"\$\{(\w+):\?", text)) == {name for name, value in example.items() if not value}


@pytest.mark.parametrize("name", services())
def test_containers_have_no_more_rights_than_they_need(name: str):
    service = services()[name]
    assert service["read_only"] is True
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert "healthcheck" in service or "build" in service
    assert service["restart"]


def test_containers_that_exchange_weights_are_one_machine_to_nccl():
    """One host id, one /dev/shm, one process namespace, and every GPU in sight; see the comment in the file."""
    on_gpus = {name: one for name, one in services().items() if one.get("deploy", {}).get("resources")}
    assert on_gpus.keys() == {"actor-gpu", "learner-gpu"}
    (shared,) = {(one["ipc"], one["pid"]) for one in on_gpus.values()}
    assert shared[0] == shared[1]
    owner = shared[0].removeprefix("service:")
    assert services()[owner]["ipc"] == "shareable"
    assert services()[owner]["shm_size"] == "16gb"
    for name, service in on_gpus.items():
        environment = service["environment"]
        assert environment["NCCL_HOSTID"] == "vision-sr1", name
        assert environment["NCCL_CUMEM_ENABLE"] == environment["NCCL_CUMEM_HOST_ENABLE"] == "0", name
        assert owner in service["depends_on"], name
        (devices,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert devices["count"] == "all", name


def test_containers_wait_for_what_they_need():
    for name, service in services().items():
        for needed, condition in service.get("depends_on", {}).items():
            assert needed in services(), f"{name} waits for {needed}"
            assert set(services()[needed].get("profiles", [])) <= set(service.get("profiles", [])), needed
            assert condition["condition"] in ("service_healthy", "service_completed_successfully")


def test_prometheus_looks_for_every_service():
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    looked_for = {name for job in config["scrape_configs"] for sd in job["dns_sd_configs"] for name in sd["names"]}
    assert looked_for == {name for name, s in services().items() if "build" in s and name != "prepare"}
    if shutil.which("promtool"):
        subprocess.run(["promtool", "check", "config", DEPLOY / "prometheus" / "prometheus.yml"], check=True)


@pytest.mark.parametrize("path", sorted((DEPLOY / "config").glob("*/run.yaml")), ids=lambda path: path.parent.name)
def test_configurations_are_valid(path: Path, tmp_path: Path):
    config = deployed_config(path, tmp_path)
    assert config.run.dir == Path("/runs")


def test_replicas_on_one_machine_take_gpus_that_are_free(tmp_path: Path):
    environment = {**os.environ, "VISION_SR1_GPU_LOCKS": str(tmp_path), "ACTOR_GPUS": "2 3,4"}
    script = DEPLOY / "docker" / "with-free-gpus"

    def start() -> subprocess.Popen[str]:
        command = [str(script), "sh", "-c", "echo $CUDA_VISIBLE_DEVICES; read wait"]
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def taken(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()

    first, second = start(), None
    try:
        assert taken(first) == "2"
        second = start()
        assert taken(second) == "3,4"
        _, complaint = start().communicate(timeout=30)
        assert "other replicas use every group of GPUs in ACTOR_GPUS (2 3,4)" in complaint
        first.kill()
        first.communicate()
        first = start()
        assert taken(first) == "2"
    finally:
        for process in (first, second):
            if process is not None:
                process.kill()
                process.communicate()


def test_secrets_for_compose_are_made_once(tmp_path: Path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "deploy").mkdir()
    shutil.copy(DEPLOY / ".env.example", tmp_path / "deploy")
    written = tmp_path / "deploy" / ".env"
    for _ in range(2):
        subprocess.run(["make", "deploy/.env"], cwd=tmp_path, check=True, capture_output=True)
    values = dict(re.findall(r"^(\w+)=(.*)$", written.read_text(), re.MULTILINE))
    secrets = {values[name] for name in ("VISION_SR1_REDIS_PASSWORD", "VISION_SR1_API_TOKEN", "GRAFANA_PASSWORD")}
    assert len(secrets) == 3
    assert all(len(secret) == 48 for secret in secrets)
    assert written.stat().st_mode & 0o077 == 0
    before = written.read_text()
    os.utime(tmp_path / "deploy" / ".env.example")
    subprocess.run(["make", "deploy/.env"], cwd=tmp_path, check=True, capture_output=True)
    assert written.read_text() == before


@pytest.mark.full(
    sibling="tests/vision_sr1/test_packaging.py::test_an_image_has_what_its_service_needs_and_nothing_else"
)
def test_the_reward_service_runs_with_what_its_image_has_and_the_doctor_beside_it(
    tmp_path: Path, tiny_model: Path, embedded_redis: EmbeddedRedis
):
    """In an environment that is made as the image's is."""
    python = tmp_path / "venv" / "bin" / "python"
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # no shapes are checked there
    variables = {**own, **embedded_redis.environment, "PYTHON": sys.executable, "VISION_SR1_TESTS_FORK": "0"}
    subprocess.run([ROOT / "scripts" / "install", tmp_path / "venv", "cpu", "reward"], check=True, env=variables)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", ROOT], check=True, env=variables)
    assert subprocess.run([python, "-c", "import torch"], capture_output=True).returncode != 0
    port = free_port()
    arguments = [f"model.path={tiny_model}", f"reward.port={port}", "run.dir=runs"]
    (tmp_path / "run.yaml").write_text("{}")
    log = tmp_path / "log"
    with log.open("w") as file:
        service = subprocess.Popen(
            [python, "-m", "reward_service", "run.yaml", *arguments], cwd=tmp_path, env=variables, stderr=file
        )
        try:
            deadline = time.monotonic() + 90
            while not answers(f"http://127.0.0.1:{port}/readyz"):
                assert service.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)
            command = [str(python), "-m", "vision_sr1", "doctor", "run.yaml", *arguments]
            said = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=120)
        finally:
            service.terminate()
            service.wait(30)
    found = {line.split()[1]: line for line in said.stdout.splitlines() if line[:1].strip()}
    assert found["versions"].startswith("ok"), said
    assert found["versions"].endswith("of reward")
    assert found["GPU"].startswith("ok"), said
    assert "only its tokenizer" in found["model"]
    assert {"Redis", "traces"} <= found.keys(), said


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.TransportError:
        return False
