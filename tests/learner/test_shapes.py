"""Annotated shapes hold: a tensor of another one is refused, here and in the processes that tests start."""

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from jaxtyping import TypeCheckError

from learner.objective.loss import PackTokens, importance_weights
from tests.shape_checks.sitecustomize import PACKAGES, has_shapes
from vision_sr1.config import OffPolicyConfig

ROOT = Path(__file__).parents[2]
SEQUENCES = torch.zeros(3, dtype=torch.int64)
ANNOTATED = [
    importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    for package in PACKAGES
    for file in sorted((ROOT / package).rglob("*.py"))
    if has_shapes(file)
]


def test_arguments_of_unequal_lengths_are_refused():
    with pytest.raises(TypeCheckError, match="behaviour_logprobs"):
        importance_weights(OffPolicyConfig(), torch.zeros(3), torch.zeros(4), SEQUENCES)


def test_a_tensor_of_another_dtype_is_refused():
    with pytest.raises(TypeCheckError, match="proximal_logprobs"):
        importance_weights(OffPolicyConfig(), torch.zeros(3, dtype=torch.int64), torch.zeros(3), SEQUENCES)


def test_fields_of_a_dataclass_must_agree():
    with pytest.raises(TypeCheckError, match="weights"):
        PackTokens(torch.zeros(3, dtype=torch.int64), torch.zeros(3), None, torch.zeros(1))


@pytest.mark.slow
def test_processes_that_tests_start_check_shapes_too():
    imports = "import torch; from learner.objective.loss import PackTokens"
    call = f"{imports}; PackTokens(torch.zeros(3, dtype=torch.int64), torch.zeros(3), None, torch.zeros(1))"
    child = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert "jaxtyping.TypeCheckError" in child.stderr


@pytest.mark.parametrize("module", ANNOTATED, ids=lambda module: module.__name__)
def test_every_module_with_shapes_is_checked(module: ModuleType):
    assert module.__spec__ is not None
    assert type(module.__spec__.loader).__module__ == "jaxtyping._import_hook"
