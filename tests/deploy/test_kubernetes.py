"""Kubernetes objects as kustomize makes them, against the schemas of Kubernetes and against rules of our own."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.deploy.test_images import DEPLOY, ROOT, deployed_config

KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (KUBERNETES / "components").iterdir())
VERSION = "1.31"
CUSTOM = {"PodMonitor", "ServiceMonitor", "PrometheusRule"}  # of the Prometheus operator
Object = dict[str, Any]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here"),
]


def objects(folder: Path) -> list[Object]:
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> list[Object]:
    """The objects of one overlay."""
    return objects(KUBERNETES / "overlays" / request.param)


def of_kind(found: list[Object], kind: str) -> list[Object]:
    return [one for one in found if one["kind"] == kind]


def pods(found: list[Object]) -> Iterator[tuple[str, Object]]:
    """Specifications of pods by the name of what makes them."""
    for one in found:
        if one["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield one["metadata"]["name"], one["spec"]["template"]["spec"]


def containers(found: list[Object]) -> Iterator[tuple[str, Object]]:
    for name, pod in pods(found):
        for container in pod["containers"] + pod.get("initContainers", []):
            yield f"{name}/{container['name']}", container


def components_with(folder: Path, component: str) -> list[Object]:
    """The demo's objects and those of a component, as a user would add it."""
    base = Path("../" * (len(folder.parts) - 1)) / str(KUBERNETES)[1:]
    lines = {"resources": [str(base / "overlays" / "cpu-demo")], "components": [str(base / "components" / component)]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(lines))
    return objects(folder)


def test_objects_are_as_kubernetes_wants_them(overlay: list[Object]):
    for one in overlay:
        if one["kind"] not in CUSTOM:
            kubernetes_validate.validate(one, VERSION, strict=True)


@pytest.mark.parametrize("component", [name for name in COMPONENTS if name not in ("fetch",)])
def test_components_can_be_added(component: str, tmp_path: Path):
    for one in components_with(tmp_path, component):
        if one["kind"] not in CUSTOM:
            kubernetes_validate.validate(one, VERSION, strict=True)


def test_every_container_says_what_it_needs_and_is_restricted(overlay: list[Object]):
    found = dict(containers(overlay))
    assert len(found) >= 5
    for name, container in found.items():
        resources = container["resources"]
        assert resources["requests"].keys() >= {"cpu", "memory"} <= resources["limits"].keys(), name
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["readOnlyRootFilesystem"] is True, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
    for name, pod in pods(overlay):
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["runAsUser"] > 0, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        allowed = {"persistentVolumeClaim", "emptyDir", "configMap", "secret"}
        assert all(volume.keys() - {"name"} <= allowed for volume in pod.get("volumes", [])), name


def test_pods_that_see_only_their_own_gpus_are_machines_of_their_own_to_nccl(overlay: list[Object]):
    for name, container in containers(overlay):
        if "nvidia.com/gpu" in container["resources"]["limits"]:
            variables = {variable["name"] for variable in container["env"]}
            assert "NCCL_SOCKET_IFNAME" in variables, name
            assert "NCCL_HOSTID" not in variables, name


def test_every_image_names_its_variant(overlay: list[Object]):
    images = {name: container["image"] for name, container in containers(overlay)}
    assert {name: found for name, found in images.items() if ":" not in found} == {}


def test_every_service_has_probes_and_time_to_end(overlay: list[Object]):
    for name, pod in pods(overlay):
        if name in ("prepare", "fetch"):
            continue
        assert pod["terminationGracePeriodSeconds"] >= 60, name
        for container in pod["containers"]:
            assert container.keys() >= {"startupProbe", "readinessProbe", "livenessProbe"}, name


def test_ports_probes_and_services_name_the_same(overlay: list[Object]):
    for name, container in containers(overlay):
        ports = {port["name"] for port in container.get("ports", [])}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if "httpGet" in container.get(probe, {}):
                assert container[probe]["httpGet"]["port"] in ports, name
    labels = {}
    for one in overlay:
        if one["kind"] in ("Deployment", "StatefulSet", "Job"):
            labels[one["metadata"]["name"]] = one["spec"]["template"]["metadata"]["labels"]
    for service in of_kind(overlay, "Service"):
        selector = service["spec"]["selector"].items()
        assert any(selector <= found.items() for found in labels.values()), service["metadata"]["name"]


def test_config_maps_secrets_and_claims_that_are_mounted_are_there(overlay: list[Object], tmp_path: Path):
    secrets = tmp_path / "secrets"
    subprocess.run([KUBERNETES / "make-secrets", secrets], check=True, capture_output=True)
    made = objects(secrets)
    names = {
        kind: {one["metadata"]["name"] for one in overlay + made if one["kind"] == kind}
        for kind in ("ConfigMap", "Secret", "PersistentVolumeClaim")
    }
    keys = {one["metadata"]["name"]: one["data"].keys() for one in of_kind(made, "Secret")}
    for name, pod in pods(overlay):
        for volume in pod.get("volumes", []):
            if "configMap" in volume:
                assert volume["configMap"]["name"] in names["ConfigMap"], name
            if "secret" in volume:
                assert volume["secret"]["secretName"] in names["Secret"], name
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in names["PersistentVolumeClaim"], name
        for container in pod["containers"]:
            for variable in container.get("env", []):
                if "valueFrom" in variable:
                    asked = variable["valueFrom"]["secretKeyRef"]
                    assert asked["key"] in keys[asked["name"]], name


def test_the_runs_are_valid_configurations(overlay: list[Object], tmp_path: Path):
    (file,) = [one["data"]["run.yaml"] for one in of_kind(overlay, "ConfigMap") if "run.yaml" in one["data"]]
    (tmp_path / "mounted.yaml").write_text(file)
    config = deployed_config(tmp_path / "mounted.yaml", tmp_path)
    assert str(config.run.dir) == "/runs"
    assert config.model.path.startswith("/runs/models/")


def test_alerts_are_those_of_prometheus(tmp_path: Path):
    made = KUBERNETES / "components" / "monitoring" / "rules.yaml"
    rules = yaml.safe_load((DEPLOY / "prometheus" / "rules.yaml").read_text())
    assert yaml.safe_load(made.read_text())["spec"] == rules, "run scripts/build_rules"


def test_dashboards_are_all_there(tmp_path: Path):
    found = components_with(tmp_path, "monitoring")
    (dashboards,) = [one for one in found if one["metadata"]["name"].startswith("dashboards-")]
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert dashboards["data"].keys() == {path.name for path in (DEPLOY / "grafana" / "dashboards").iterdir()}
    for text in dashboards["data"].values():
        json.loads(text)


def test_secrets_are_not_overwritten(tmp_path: Path):
    for status in (0, 1):
        done = subprocess.run([KUBERNETES / "make-secrets", tmp_path / "made"], capture_output=True, text=True)
        assert done.returncode == status
    assert "its secrets are in use" in done.stderr
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "made").rglob("*"))


def test_what_readers_are_told_to_type_names_what_is_there():
    text = (ROOT / "README.md").read_text() + (ROOT / "docs" / "deploy.md").read_text()
    assert [
        path
        for path in set(re.findall(r"\bdeploy/[\w./-]+\w", text))
        if not (ROOT / path).exists() and path not in ("deploy/.env", "deploy/kubernetes/secrets")
    ] == []
