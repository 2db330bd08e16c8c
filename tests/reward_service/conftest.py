"""Trace stores on real databases."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pgserver
import psycopg
import pytest

from reward_service.store import TraceReader, TraceWriter, open_store
from vision_sr1.config import TracesConfig
from vision_sr1.rewards.names import RANGES

RUN = "r"
RANGE = {**RANGES, "response_tokens": (0.0, 100.0)}


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pgserver.PostgresServer]:
    """A PostgreSQL server, from a wheel."""
    server = pgserver.get_server(tmp_path_factory.mktemp("postgres"))
    yield server
    server.cleanup()


@pytest.fixture
def postgres_with_trigrams() -> Iterator[str]:
    """An empty database of Debian's PostgreSQL, which has the extension `pg_trgm`; the wheel's has none."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not versions:
        pytest.skip("no PostgreSQL here: install Debian's package of that name")
    user = "postgres" if os.geteuid() == 0 else None  # it does not run as root
    folder = Path(tempfile.mkdtemp(prefix="vision-sr1-postgres-"))
    if user:
        shutil.chown(folder, user)

    def control(*arguments: str) -> None:
        command: list[str | Path] = [versions[-1], "--pgdata", folder / "data", "--log", folder / "log", "-w"]
        subprocess.run([*command, *arguments], check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL)

    control("initdb", "-o", "--auth=trust --username=postgres --no-sync")
    control("start", "-o", f"-k {folder} -c listen_addresses=''")
    yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
    control("stop", "-m", "immediate")
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/traces.sqlite"
    server: pgserver.PostgresServer = request.getfixturevalue("postgres")
    name = f"t{abs(hash(str(tmp_path))):x}"
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    host = server.get_uri().partition("?host=")[2]
    return f"postgresql+psycopg://postgres@/{name}?host={host}"


class Store:
    """A store with its writer and reader."""

    def __init__(self, url: str, **options: object) -> None:
        self.url = url
        self.engine = open_store(TracesConfig(url=url), url)
        self.writer = TraceWriter(self.engine, None, TracesConfig(url=url, **options), RANGE)
        self.reader = TraceReader(self.engine)
