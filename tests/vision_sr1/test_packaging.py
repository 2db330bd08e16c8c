"""What each package imports is what its extra installs; the client alone needs neither torch nor Redis."""

import ast
import importlib.metadata
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import Once
from tests.wheels import PYTHON, build_wheel, run, wheel_in

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OURS = {"actors", "learner", "reward_service", "vision_sr1"}
EXTRAS = {"actors": "actors", "learner": "learner", "reward_service": "reward", "vision_sr1/cli": "cli"}
ENGINE = {"vllm", "triton"}  # of the extras `cpu` and `gpu`
TRACKERS = {"wandb", "mlflow", "trackio"}  # of the extra `tracking`
TABLES = {"pandas"}  # of the extra of the same name
DATA_SETS = {"easy_vqa"}  # of the extra of the same name
# What comes with a package whose extra it is part of, and is imported beside it.
COMES_WITH = {
    "google": "protobuf",
    "latex2sympy2_extended": "math-verify",
    "pydantic_core": "pydantic",
    "starlette": "fastapi",
    "sympy": "math-verify",
    "tokenizers": "transformers",
}


LEFT_OUT = {"torchaudio", "torchcodec"}  # of the lock for CPUs: see scripts/install


packages_distributions = cache(importlib.metadata.packages_distributions)  # reads every package's files


def sources() -> dict[str, Path]:
    """Files by module."""
    found = {}
    for package in OURS:
        for file in (ROOT / package).rglob("*.py"):
            found[".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = file
    return found


SOURCES = sources()


def imported(module: str) -> Iterator[str]:
    """What a module imports when it runs; not what only its annotations name."""
    tree = ast.parse(SOURCES[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body.clear()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def libraries(folder: str) -> set[str]:
    """Top-level names that a package imports, and what it imports of ours with it."""
    prefix = folder.replace("/", ".")
    todo = [module for module in SOURCES if module == prefix or module.startswith(f"{prefix}.")]
    seen: set[str] = set()
    found: set[str] = set()
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        for name in imported(module):
            top = name.partition(".")[0]
            if top not in OURS:
                found.add(top)
            elif name in SOURCES:
                todo.append(name)
        todo += [parent for parent in (module.rpartition(".")[0],) if parent in SOURCES]
    return found - sys.stdlib_module_names


def installed_by(extra: str | None) -> set[str]:
    """Names of the packages that an extra brings, and those that every installation has."""
    names = {Requirement(line).name for line in PROJECT["dependencies"]}
    todo = [extra] if extra else []
    while todo:
        for line in PROJECT["optional-dependencies"][todo.pop()]:
            requirement = Requirement(line)
            names.add(requirement.name)
            todo += requirement.extras if requirement.name == PROJECT["name"] else []
    return {canonicalize_name(name) for name in names}


@pytest.mark.parametrize("folder", EXTRAS)
def test_an_extra_brings_what_its_package_imports(folder: str):
    distributions = packages_distributions()
    brought = installed_by(EXTRAS[folder])
    lacking = {
        name
        for name in libraries(folder) - ENGINE - TRACKERS - TABLES - DATA_SETS
        if not {COMES_WITH.get(name, ""), *map(canonicalize_name, distributions.get(name, [name]))} & brought
    }
    assert not lacking, f"{EXTRAS[folder]} lacks {lacking}"


def needed(extras: list[str]) -> set[str]:
    """Packages of extras, and those that they require, as the metadata of what is installed says."""
    todo = [Requirement(f"{PROJECT['name']}[{','.join(extras)}]")]
    found: set[tuple[str, str]] = set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if name not in LEFT_OUT and (name, extra) not in found:
                found.add((name, extra))
                todo += required(name, extra)
    return {name for name, _ in found} - {PROJECT["name"]}


def required(name: str, extra: str) -> list[Requirement]:
    """What a package requires, or one of its extras; "" is what every installation has."""
    if name == PROJECT["name"]:
        lines = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
        return list(map(Requirement, lines))
    requires = map(Requirement, importlib.metadata.requires(name) or [])
    return [one for one in requires if one.marker is None or one.marker.evaluate({"extra": extra})]


def locked(variant: str) -> dict[str, set[str]]:
    """Images that have each package."""
    lines = (ROOT / "requirements" / f"{variant}.lock").read_text(encoding="utf-8").splitlines()
    found: dict[str, set[str]] = {}
    for line in (line for line in lines if not line.startswith("#")):
        requirement, _, images = line.partition("  # ")
        found[canonicalize_name(requirement.partition("==")[0])] = set(images.split(", "))
    return found


@pytest.mark.parametrize(
    ("image", "extras"),
    [
        ("actor", ["actors", "doctor", "cpu"]),
        ("reward", ["reward", "doctor"]),
        ("learner", ["cli", "cpu"]),  # operators run the command there
    ],
)
def test_an_image_has_what_its_service_needs_and_nothing_else(image: str, extras: list[str]):
    assert {name for name, images in locked("cpu").items() if image in images} == needed(extras)


def test_the_locks_give_a_package_to_the_same_images():
    cpu, gpu = locked("cpu"), locked("gpu")
    assert {name: images for name, images in gpu.items() if name in cpu} == {
        name: images for name, images in cpu.items() if name in gpu
    }
    assert all(gpu[name] == {"actor", "learner"} for name in gpu.keys() - cpu.keys()), "what CUDA needs"


def test_the_client_needs_what_every_installation_has():
    assert libraries("vision_sr1/client") - TABLES <= installed_by(None)


def test_the_client_is_there_without_anything_else():
    blocked = ["torch", "transformers", "redis", "typer", "yaml", "grpc", "numpy"]
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked})); import vision_sr1.client; print('there')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "there\n", done.stderr


def test_the_command_names_what_is_not_installed():
    code = "import sys; sys.modules['typer'] = None; from vision_sr1.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.startswith("typer is not installed: the command needs the extra `cli` and an engine")


def test_the_doctor_is_there_beside_any_service():
    """With what its extra brings, and not what a service has besides."""
    others = [
        "PIL",
        "pyarrow",
        "datasets",
        "torch",
        "torchvision",
        "safetensors",
        "fastapi",
        "math_verify",
        "deepspeed",
    ]
    code = f"import sys; sys.modules.update(dict.fromkeys({others})); import vision_sr1.cli.main, vision_sr1.cli.doctor"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.full(
    sibling="tests/vision_sr1/test_packaging.py::test_the_client_is_there_without_anything_else",
)
def test_a_wheel_has_the_examples_and_its_client_needs_no_more_than_its_extra(once: Once, tmp_path: Path):
    wheel = wheel_in(once("wheel", build_wheel))
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    examples = {file.relative_to(ROOT / "examples") for file in (ROOT / "examples").rglob("*.yaml")}
    prefix = "vision_sr1/examples/"
    assert {Path(name.removeprefix(prefix)) for name in names if name.startswith(prefix)} == examples
    page = {str(file.relative_to(ROOT)) for file in (ROOT / "reward_service" / "page").rglob("*") if file.is_file()}
    assert page <= set(names), "the page with its plotting library and the license of that"
    assert not [name for name in names if name.endswith(".pth")], "nothing runs at the start of every interpreter"
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == OURS

    python = tmp_path / "venv" / "bin" / "python"
    run(*PYTHON, "-m", "venv", tmp_path / "venv", folder=tmp_path)
    run(python, "-m", "pip", "install", "--quiet", f"{wheel}[client]", folder=tmp_path)
    code = (
        "from importlib.util import find_spec; from vision_sr1.client import Client; print(find_spec('torch'), Client)"
    )
    assert run(python, "-c", code, folder=tmp_path) == "None <class 'vision_sr1.client.client.Client'>\n"
