"""What a rank's process is set up with."""

from collections.abc import Iterator

import pytest
import torch

from learner.distributed.ranks import ALLOCATOR_SETTINGS, configure_allocator

settings = torch._C._accelerator_getAllocatorSettings


@pytest.fixture(autouse=True)
def without_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for variable in ALLOCATOR_SETTINGS:
        monkeypatch.delenv(variable, raising=False)
    yield
    torch._C._accelerator_setAllocatorSettings("expandable_segments:False")


def test_segments_of_the_allocator_can_grow():
    configure_allocator()
    exact = "pinned_max_round_threshold_mb:64,pinned_max_cached_size_mb:64"  # the second for the sake of the first
    assert settings() == f"expandable_segments:True,{exact}"


@pytest.mark.parametrize("variable", ALLOCATOR_SETTINGS)
def test_settings_of_the_environment_are_kept(variable: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(variable, "max_split_size_mb:64")
    before = settings()
    configure_allocator()
    assert settings() == before
