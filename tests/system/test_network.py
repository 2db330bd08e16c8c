"""The demo's pods on a network: commands, users, file systems and arrows as the Kubernetes objects say, under TLS."""

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.system.containers import CAN_RUN, Network, Pod

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
SERVICES = ("redis-0", "actor-0", "actor-1", "reward-service-0", "learner-0", "learner-1")
STARTUP_S, STEP_S = 240.0, 300.0

pytestmark = [
    pytest.mark.skipif(not CAN_RUN, reason="needs root, iproute2, util-linux and kubectl: namespaces stand for pods"),
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server with TLS here"),
]

Object = dict[str, Any]


def kustomized(folder: Path) -> list[Object]:
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


def until(condition: Callable[[], bool], timeout_s: float, what: Callable[[], str]) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s:.0f} s: {what()}")
        time.sleep(0.5)


@dataclass
class Cluster:
    """Pods of the overlay `cpu-demo`, with two actors and two nodes of the learner."""

    folder: Path
    network: Network
    objects: list[Object]
    secrets: dict[str, dict[str, str]]
    volumes: dict[str, Path]
    pods: dict[str, Pod] = field(default_factory=dict)

    def pod(self, owner: str, name: str, *names: str, container: str | None = None) -> Pod:
        """A pod of a Deployment, StatefulSet or Job, not started yet."""
        (specification,) = [
            found["spec"]["template"]["spec"]
            for found in self.objects
            if found["metadata"]["name"] == owner and found["kind"] in ("Deployment", "StatefulSet", "Job")
        ]
        every = specification["containers"] + specification.get("initContainers", [])
        (chosen,) = [one for one in every if one["name"] == (container or owner)]
        self.pods[name] = Pod(
            name=name,
            namespace=self.network.add(name, *names),
            specification=specification,
            container=chosen,
            volumes=self.volumes,
            secrets=self.secrets,
            hosts=self.network.hosts,
            folder=self.folder,
        )
        return self.pods[name]

    def is_healthy(self, name: str, probe: str) -> bool:
        """Whether the pod's own probe succeeds."""
        pod = self.pods[name]
        declared = pod.container[probe]
        if "exec" in declared:
            return pod.succeeds(declared["exec"]["command"])
        ports = {port["name"]: port["containerPort"] for port in pod.container["ports"]}
        return self.network.answers(name, ports[declared["httpGet"]["port"]], declared["httpGet"]["path"])

    def wait_until_healthy(self, name: str, probe: str, timeout_s: float = STARTUP_S) -> None:
        until(lambda: self.is_healthy(name, probe), timeout_s, self.pods[name].log)

    def step(self) -> int:
        """The last batch that was learned from."""
        path = self.volumes["runs"] / "rl" / "scalars.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        return max((int(json.loads(line)["step"]) for line in lines), default=-1)

    def wait_for_step(self, step: int, *, restarts: bool = False) -> None:
        """Returns when the batch was learned from. Containers that end are started again, as a node does, or fail."""

        def logs() -> str:
            return "\n".join(f"--- {name}\n{pod.log()}" for name, pod in self.pods.items())

        def is_there() -> bool:
            for ended in (self.pods[name] for name in SERVICES if self.pods[name].has_ended):
                assert restarts, logs()
                ended.start()
            return self.step() >= step

        until(is_there, STEP_S, logs)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, cold_start_model: Path) -> Iterator[Cluster]:
    """Its volumes, secrets and network; no pod yet."""
    folder = tmp_path_factory.mktemp("cluster")
    subprocess.run([KUBERNETES / "make-secrets", folder / "secrets"], check=True, capture_output=True)
    objects = kustomized(KUBERNETES / "overlays" / "cpu-demo")
    secrets: dict[str, dict[str, str]] = {}
    volumes = {}
    for found in [*objects, *kustomized(folder / "secrets")]:
        name = found["metadata"]["name"]
        if found["kind"] == "Secret":
            secrets[name] = {key: base64.b64decode(value).decode() for key, value in found["data"].items()}
        if found["kind"] in ("Secret", "ConfigMap"):
            volumes[name] = folder / "mounts" / name
            volumes[name].mkdir(parents=True)
            for key, value in (secrets.get(name) or found["data"]).items():
                (volumes[name] / key).write_text(value)
                (volumes[name] / key).chmod(0o555)
    for name, user in (("runs", 10001), ("traces", 10001), ("data", 999)):
        volumes[name] = folder / name
        volumes[name].mkdir()
        shutil.chown(volumes[name], user, user)
    (volumes["runs"] / "models").mkdir()
    shutil.copytree(cold_start_model, volumes["runs"] / "models" / "cold_start")
    for path in (volumes["runs"] / "models", *(volumes["runs"] / "models").rglob("*")):
        shutil.chown(path, 10001, 10001)
    for path in (folder, *folder.parents):
        if path.stat().st_mode & 0o077 == 0 and path.is_relative_to(folder.parent):
            path.chmod(0o755)
    network = Network(folder)
    cluster = Cluster(folder, network, objects, secrets, volumes)
    yield cluster
    for pod in cluster.pods.values():
        pod.kill()
    network.close()


@pytest.fixture(scope="module")
def running(cluster: Cluster) -> Cluster:
    """All pods, after a step of RL."""
    prepare = cluster.pod("prepare", "prepare").start("learner.sft.steps=4")
    assert prepare.wait(STARTUP_S) == 0, prepare.log()
    waits = cluster.pod("actor", "actor-wait", container="wait-for-model").start()
    assert waits.wait(30) == 0, waits.log()
    redis = cluster.pod("redis", "redis-0", "redis", "redis-0.redis")
    services = [cluster.pod("actor", "actor-0"), cluster.pod("actor", "actor-1")]
    services.append(cluster.pod("reward-service", "reward-service-0", "reward-service"))
    nodes = [cluster.pod("learner", f"learner-{index}", f"learner-{index}.learner") for index in range(2)]
    ingress = cluster.network.add("ingress")
    redis.start()
    cluster.wait_until_healthy("redis-0", "startupProbe", 30)
    for pod in services:
        pod.start()
    for node in nodes:
        node.environment["NODES"] = "2"
        node.start()
    cluster.wait_for_step(1)
    for name in SERVICES:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            cluster.wait_until_healthy(name, probe, 60)
    address = cluster.network.addresses["reward-service-0"]
    token = cluster.secrets["api-token"]["VISION_SR1_API_TOKEN"]
    ask = ["curl", "-fsS", "--max-time", "20", f"http://{address}:8088/v1/groups?limit=1"]
    answer = ["ip", "netns", "exec", ingress, *ask, "-H", f"Authorization: Bearer {token}"]
    done = subprocess.run(answer, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["groups"], "no group was traced"
    return cluster


def component(pod: str) -> str:
    return pod.rpartition("-")[0] or pod


@pytest.mark.full(sibling="tests/vision_sr1/runtime/test_rpc.py::test_both_sides_show_a_certificate_of_one_authority")
def test_a_step_is_learned_from_across_pods_under_tls(running: Cluster):
    scalars = [json.loads(line) for line in (running.volumes["runs"] / "rl" / "scalars.jsonl").read_text().splitlines()]
    (first, *_) = [line for line in scalars if line["step"] == 1]
    assert first["policy/version"] == 1
    assert 0 <= first["mismatch_kl/engine_trainer"] < 1e-3
    assert first["same_weights/share"] == 1.0


@pytest.mark.full(sibling="tests/deploy/test_kubernetes.py::test_ports_probes_and_services_name_the_same")
def test_the_arrows_of_the_policies_are_the_connections_seen(running: Cluster):
    policies = [found for found in running.objects if found["kind"] == "NetworkPolicy"]
    seen = {(component(a), component(b), port) for a, b, port in running.network.connections()}
    forbidden = {arrow for arrow in seen if not _egress(policies, *arrow) or not _ingress(policies, *arrow)}
    assert forbidden == set()
    unseen = [arrow for arrow in _allowed(policies) if not any(_is(arrow, *connection) for connection in seen)]
    assert unseen == []


@pytest.mark.full(sibling="tests/deploy/test_kubernetes.py::test_every_container_says_what_it_needs_and_is_restricted")
def test_containers_can_write_where_it_is_declared_and_nowhere_else(running: Cluster):
    for name in ("actor-0", "reward-service-0", "learner-0", "redis-0"):
        pod = running.pods[name]
        writable = {m["mountPath"] for m in pod.container["volumeMounts"] if not m.get("readOnly")}
        for folder in ("/", "/etc", "/usr/local/bin", "/opt/venv", "/runs", "/traces", "/tmp", "/data"):
            assert (pod.run("test", "-w", folder).returncode == 0) == (folder in writable), f"{name}: {folder}"


@pytest.mark.full(
    sibling="tests/vision_sr1/cli/test_doctor.py::test_the_command_says_all_and_fails_where_something_does"
)
@pytest.mark.parametrize("name", ["learner-0", "actor-0", "reward-service-0"])
def test_the_doctor_finds_nothing_from_within(running: Cluster, name: str):
    config = ["/etc/vision-sr1/run.yaml", "run.dir=/runs", "tls.enabled=true"]
    done = running.pods[name].run("vision-sr1", "doctor", *config)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not [line for line in done.stdout.splitlines() if line.startswith("failed")], done.stdout
    if name == "learner-0":  # the others' users of Redis may not see all of it
        assert "2, all at version" in done.stdout
        status = running.pods[name].run("vision-sr1", "streams", "status", *config[:2])
        assert status.returncode == 0, status.stdout + status.stderr
        assert "scored" in status.stdout


@pytest.mark.full(
    sibling="tests/system/test_training.py::"
    "test_a_learner_that_is_killed_and_stopped_at_arbitrary_points_ends_with_the_same_weights"
)
def test_the_run_goes_on_when_a_node_of_the_learner_is_lost(running: Cluster):
    for lost in ("learner-1", "learner-0"):
        pod = running.pods[lost]
        pod.kill()
        before = running.step()
        running.wait_for_step(before + 2, restarts=True)


@pytest.mark.full(
    sibling="tests/system/test_operation.py::"
    "test_killed_services_are_replaced_ctrl_c_stops_all_and_resume_goes_on_with_the_same_batch"
)
def test_services_end_by_themselves_when_they_are_told_to(running: Cluster):
    for name in ("reward-service-0", "actor-0"):
        pod = running.pods[name]
        pod.terminate()
        assert pod.wait(pod.specification["terminationGracePeriodSeconds"]) in (0, 128 + 15, -15), pod.log()


Arrow = tuple[str, str, int, int]  # from, to, first and last port


def _policies(policies: list[Object], name: str, direction: str) -> list[Object]:
    """Rules of the policies for a component; those for all pods have no arrows, but for names."""
    return [
        rule
        for policy in policies
        if policy["spec"]["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/component") == name
        for rule in policy["spec"].get(direction, [])
    ]


def _peers(rule: Object, key: str) -> set[str]:
    found = set()
    for peer in rule[key]:
        if "namespaceSelector" in peer:
            found.add("ingress")
            continue
        selector = peer["podSelector"]
        if label := selector.get("matchLabels", {}).get("app.kubernetes.io/component"):
            found.add(label)
        for expression in selector.get("matchExpressions", []):
            found |= set(expression["values"])
    return found


def _arrows(policies: list[Object], name: str, direction: str) -> set[Arrow]:
    key = "to" if direction == "egress" else "from"
    return {
        (name, peer, port["port"], port.get("endPort", port["port"]))
        if direction == "egress"
        else (peer, name, port["port"], port.get("endPort", port["port"]))
        for rule in _policies(policies, name, direction)
        for peer in _peers(rule, key)
        for port in rule["ports"]
    }


def _is(arrow: Arrow, a: str, b: str, port: int) -> bool:
    return arrow[:2] == (a, b) and arrow[2] <= port <= arrow[3]


def _egress(policies: list[Object], a: str, b: str, port: int) -> bool:
    return a == "ingress" or any(_is(arrow, a, b, port) for arrow in _arrows(policies, a, "egress"))


def _ingress(policies: list[Object], a: str, b: str, port: int) -> bool:
    return any(_is(arrow, a, b, port) for arrow in _arrows(policies, b, "ingress"))


def _allowed(policies: list[Object]) -> set[Arrow]:
    names = ("redis", "actor", "reward-service", "learner")
    return {arrow for name in names for way in ("ingress", "egress") for arrow in _arrows(policies, name, way)}
