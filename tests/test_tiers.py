"""What `make test` leaves out for its length has a shorter test of the same promise there."""

import re
from pathlib import Path

import pytest

from tests.conftest import COLLECTED

TABLE = Path(__file__).with_name("README.md")


def named(item: str) -> set[str]:
    """How the table may name a test: by its file, or with its function."""
    file, _, function = item.partition("::")
    return {Path(file).name, f"{Path(file).name}::{function.partition('[')[0]}"}


def test_no_promise_is_held_by_a_long_test_alone(request: pytest.FixtureRequest):
    items = request.config.stash[COLLECTED]
    files = {item.path.relative_to(request.config.rootpath).as_posix() for item in items.values()}
    rows = [
        [set(re.findall(r"`(test_[^`]+)`", cell)) for cell in line.split("|")[2:4]]
        for line in TABLE.read_text().splitlines()
        if line.startswith("| ") and "`test_" in line
    ]
    for name, item in items.items():
        marker = item.get_closest_marker("full")
        if marker is None:
            continue
        sibling: str = marker.kwargs["sibling"]
        siblings = [found for found in items if found == sibling or found.startswith(f"{sibling}[")]
        assert siblings or sibling.partition("::")[0] not in files, f"{name}: there is no {sibling}"
        short = [found for found in siblings if not items[found].get_closest_marker("full")]
        assert short or not siblings, f"{name}: {sibling} is as long"
        assert any(named(sibling) & tested and named(name) & full for tested, full in rows), (
            f"{TABLE.name} has no row with {sibling} and {name}"
        )
