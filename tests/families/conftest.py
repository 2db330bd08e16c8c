"""A tiny model of each family, made once."""

from pathlib import Path

import pytest

from tests.conftest import Once
from tests.families.side import Side
from vision_sr1.cli.tasks.distributions import TASKS, corpus
from vision_sr1.families import known_families


def tiny_model_of(once: Once, family: str, *, tie_word_embeddings: bool = True) -> Path:
    """A tiny model with random weights."""
    from vision_sr1.cli.tasks.tiny_model import make_tiny_model

    def make(folder: Path) -> None:
        texts = corpus(TASKS["shapes"], rows=300)
        make_tiny_model(folder, texts, family=family, tie_word_embeddings=tie_word_embeddings)

    return once(f"{family}_{'tied' if tie_word_embeddings else 'untied'}", make)


@pytest.fixture(scope="session", params=known_families())
def family_model(request: pytest.FixtureRequest, once: Once) -> Path:
    """Of each family in turn."""
    return tiny_model_of(once, request.param)


@pytest.fixture(scope="session")
def side(family_model: Path) -> Side:
    """Its policy, and transformers' own model with the same weights."""
    return Side(family_model)
