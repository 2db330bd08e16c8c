"""Fixtures that start what a test needs: a real Redis, a real browser, tiny models, made data."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, sync_playwright

from vision_sr1.config import Config, load_config
from vision_sr1.streams.embedded import EmbeddedRedis
from vision_sr1.tasks.distributions import TASKS, corpus, write_task

TINY = ["model.dtype=float32", "model.max_model_len=256", "model.min_pixels=3136", "model.max_pixels=3136"]


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Parquet files of the shapes task."""
    folder = tmp_path_factory.mktemp("shapes")
    return write_task(TASKS["shapes"], folder, seed=0, base=64, cold_start=1600, train=64, held_out=8)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with tied embeddings and random weights."""
    from vision_sr1.tiny_model import make_tiny_model

    folder = tmp_path_factory.mktemp("tied")
    make_tiny_model(folder, corpus(TASKS["shapes"], rows=300))
    return folder


@pytest.fixture(scope="session")
def untied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with separate input and output embeddings."""
    from vision_sr1.tiny_model import make_tiny_model

    folder = tmp_path_factory.mktemp("untied")
    make_tiny_model(folder, corpus(TASKS["shapes"], rows=300), tie_word_embeddings=False)
    return folder


@pytest.fixture(scope="session")
def single_rank() -> Iterator[torch.device]:
    """This process as the only rank of a learner."""
    from learner.engine import init_process_group

    yield init_process_group()
    torch.distributed.destroy_process_group()


@pytest.fixture
def embedded_redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis server of the test's own."""
    with EmbeddedRedis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def redis_config(embedded_redis: EmbeddedRedis) -> Config:
    """A configuration that points at it."""
    options = ["streams.lease_s=0.3", "streams.max_deliveries=3"]
    return load_config(None, options, environment=embedded_redis.environment).config


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here: install Debian's package of that name")
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        yield browser
        browser.close()
