"""What a rank's process is set up with."""

from collections.abc import Iterator

import pytest
import torch

from learner.distributed.ranks import configure_allocator
from vision_sr1.runtime.host_memory import ALLOCATOR_SETTINGS

settings = torch._C._accelerator_getAllocatorSettings


@pytest.fixture(autouse=True)
def without_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for variable in ALLOCATOR_SETTINGS:
        monkeypatch.delenv(variable, raising=False)
    yield
    torch._C._accelerator_setAllocatorSettings("expandable_segments:False")


def test_segments_of_the_allocator_can_grow():
    configure_allocator()
    assert settings() == "expandable_segments:True,pinned_max_round_threshold_mb:64"


@pytest.mark.parametrize("variable", ALLOCATOR_SETTINGS)
def test_settings_of_the_environment_are_kept(variable: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(variable, "max_split_size_mb:64")
    before = settings()
    configure_allocator()
    assert settings() == before
