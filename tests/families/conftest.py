"""A tiny model of each family, made once."""

from pathlib import Path

import pytest

from tests.conftest import Once
from tests.families.side import Side
from vision_sr1.cli.tasks.distributions import TASKS, corpus
from vision_sr1.families import known_families


@pytest.fixture(scope="session", params=known_families())
def family_model(request: pytest.FixtureRequest, once: Once) -> Path:
    """A tiny model with random weights, of each family in turn."""
    from vision_sr1.cli.tasks.tiny_model import make_tiny_model

    family: str = request.param
    return once(f"family_{family}", lambda f: make_tiny_model(f, corpus(TASKS["shapes"], rows=300), family=family))


@pytest.fixture(scope="session")
def side(family_model: Path) -> Side:
    """Its policy, and transformers' own model with the same weights."""
    return Side(family_model)
