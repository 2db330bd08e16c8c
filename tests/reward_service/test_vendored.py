"""What the page brings of others is what its publisher released, with its license, and is in the package."""

import hashlib
import re
from pathlib import Path

import pytest

import reward_service

UPLOT = Path(reward_service.__file__).parent / "page" / "vendor" / "uplot"


@pytest.mark.parametrize("name", ["uPlot.esm.js", "uPlot.min.css", "LICENSE"])
def test_a_vendored_file_is_as_it_was_released(name: str):
    stated = re.search(rf"\| `{re.escape(name)}` \| `(\w+)` \|", (UPLOT / "README.md").read_text(encoding="utf-8"))
    assert stated is not None
    assert hashlib.sha256((UPLOT / name).read_bytes()).hexdigest() == stated[1]


def test_the_version_and_the_license_are_those_that_are_stated():
    version = re.search(r"^# uPlot (\S+)$", (UPLOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert version is not None
    assert f"(v{version[1]})" in (UPLOT / "uPlot.esm.js").read_text(encoding="utf-8")[:500]
    assert (UPLOT / "LICENSE").read_text(encoding="utf-8").startswith("The MIT License (MIT)")
