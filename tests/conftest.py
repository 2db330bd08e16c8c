"""Fixtures that start what a test needs: a real Redis, a real browser, tiny models, made data; and the tests' tiers."""

import fcntl
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from playwright.sync_api import Browser, expect, sync_playwright

from tests import forking
from vision_sr1.cli.tasks.distributions import TASKS, corpus, write_task
from vision_sr1.config import Config, load_config
from vision_sr1.streams.embedded import EmbeddedRedis

SYSTEM = Path(__file__).with_name("system")
ONE_SERVER = {"test_judge": "test_export"}  # files that share a server, by the one whose worker starts it
# Go first; one worker begins with the cold start that most others need, the other with what needs none.
LONGEST = ["test_training", "test_relayout", "test_weights", "test_operation", "test_soak", "test_fleet"]
COLLECTED = pytest.StashKey[dict[str, pytest.Item]]()  # all tests, also those that are not chosen
TINY = ["model.dtype=float32", "model.max_model_len=256", "model.min_pixels=3136", "model.max_pixels=3136"]
BROWSER_TIMEOUT_MS = 20_000

settings.register_profile("tests", deadline=None)  # how fast an example is, depends on what else runs
settings.load_profile("tests")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("dist", "no") == "no":  # where tests run: not in what starts workers
        forking.install(forking.Server())


@pytest.hookimpl(wrapper=True)  # before markers choose, and workers are given what is chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, None, None]:
    """Whole systems first, those of a file on one worker; all else fills the workers up."""
    config.stash[COLLECTED] = {item.nodeid: item for item in items}
    for item in items:
        if item.path.is_relative_to(SYSTEM):
            item.add_marker(pytest.mark.system)
        if item.get_closest_marker("system") and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(ONE_SERVER.get(item.path.stem, item.path.stem)))
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    return (yield)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[[str, Callable[[Path], object]], Path]:
    """Makes a folder of a name and content once for all workers of a session; `make` fills it."""
    shared = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        shared = shared.parent

    def once(name: str, make: Callable[[Path], object]) -> Path:
        folder, whole = shared / f"once-{name}", shared / f"once-{name}.whole"
        with (shared / f"once-{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not whole.exists():
                folder.mkdir()
                make(folder)
                whole.touch()
        return folder

    return once


Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def shapes(once: Once) -> dict[str, Path]:
    """Parquet files of the shapes task."""

    def make(folder: Path) -> None:
        write_task(TASKS["shapes"], folder, seed=0, base=64, cold_start=1600, train=64, held_out=8)

    return {file.stem: file for file in once("shapes", make).glob("*.parquet")}


@pytest.fixture(scope="session")
def tiny_model(once: Once) -> Path:
    """A tiny model with tied embeddings and random weights."""
    from vision_sr1.cli.tasks.tiny_model import make_tiny_model

    return once("tied", lambda folder: make_tiny_model(folder, corpus(TASKS["shapes"], rows=300)))


@pytest.fixture(scope="session")
def untied_model(once: Once) -> Path:
    """The same with separate input and output embeddings."""
    from vision_sr1.cli.tasks.tiny_model import make_tiny_model

    def make(folder: Path) -> None:
        make_tiny_model(folder, corpus(TASKS["shapes"], rows=300), tie_word_embeddings=False)

    return once("untied", make)


@pytest.fixture(scope="session")
def single_rank() -> Iterator[torch.device]:
    """This process as the only rank of a learner."""
    from learner.distributed.ranks import init_process_group

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


@pytest.fixture
def dead_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that names a proxy which answers nothing."""
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    for name in ("grpc_proxy", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here: install Debian's package of that name")
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]
    with sync_playwright() as playwright:
        expect.set_options(timeout=BROWSER_TIMEOUT_MS)
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        yield browser
        browser.close()
