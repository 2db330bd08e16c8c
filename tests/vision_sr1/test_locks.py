"""What the locks install fits together: no file comes from two packages, and each gets what it requires."""

import csv
import importlib.metadata
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.locked_wheels import UNREACHABLE, Wheel

ROOT = Path(__file__).parents[2]
# Left in site-packages by packages that are built with it; nothing that runs imports it.
IMPORTED_BY_NOTHING = {"build_backend.py"}


def owned_twice(packages: Iterable[tuple[str, dict[str, str]]]) -> dict[str, list[str]]:
    """Files of which two packages have different contents: the order of installation decides which is there.

    Equal contents do no harm: packages share folders such as `nvidia`, each with the same `__init__.py`.
    """
    owners: dict[str, dict[str, str]] = defaultdict(dict)
    for name, files in packages:
        for path, digest in files.items():
            owners[path][name] = digest
    return {
        path: sorted(found)
        for path, found in owners.items()
        if len(set(found.values())) > 1 and path not in IMPORTED_BY_NOTHING
    }


def test_no_file_here_belongs_to_two_packages():
    """Of `cpu.lock` and `dev.lock`, which this environment has."""
    packages = []
    for distribution in importlib.metadata.distributions():
        rows = csv.reader((distribution.read_text("RECORD") or "").splitlines())
        packages.append((distribution.name, {row[0]: row[1] for row in rows if row}))
    assert len(packages) > 200
    assert owned_twice(packages) == {}


@pytest.fixture(scope="module")
def gpu_wheels() -> list[Wheel]:
    """What `gpu.lock` installs, as the package indexes say."""
    command = [sys.executable, "-m", "tests.locked_wheels", "requirements/gpu.lock"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    if done.returncode == UNREACHABLE:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    wheels: list[Wheel] = json.loads(done.stdout)
    return wheels


@pytest.mark.full(sibling="tests/vision_sr1/test_locks.py::test_no_file_here_belongs_to_two_packages")
def test_no_file_of_the_lock_for_gpus_belongs_to_two_packages(gpu_wheels: list[Wheel]):
    packages = [(wheel["name"], wheel["files"]) for wheel in gpu_wheels if wheel["files"] is not None]
    assert len(packages) > 240
    assert owned_twice(packages) == {}


@pytest.mark.full(
    sibling="tests/vision_sr1/test_packaging.py::test_an_image_has_what_its_service_needs_and_nothing_else"
)
def test_the_lock_for_gpus_has_what_its_packages_require(gpu_wheels: list[Wheel]):
    locked = {canonicalize_name(wheel["name"]): wheel["version"] for wheel in gpu_wheels}
    unmet = []
    for wheel in gpu_wheels:
        for requirement in map(Requirement, wheel["requires"]):
            version = locked.get(canonicalize_name(requirement.name), "nothing")
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            if version == "nothing" or not requirement.specifier.contains(version, prereleases=True):
                unmet.append(f"{wheel['name']} requires {requirement}, the lock has {version}")
    assert unmet == []
