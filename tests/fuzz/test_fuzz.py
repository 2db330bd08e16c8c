"""Whatever bytes come in, nothing crashes and nothing takes for ever."""

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, response_parser, seeds

SECONDS = 8  # of atheris per target
PIECES = [
    b"<description>",
    b"</description>",
    b"<think>",
    b"</think>",
    b"\\boxed{",
    b"}",
    b"{",
    b"<",
    b" ",
    b"\n",
    b"red",
]
responses = st.lists(st.sampled_from(PIECES) | st.binary(max_size=8), max_size=60).map(b"".join)
damaged = st.sampled_from(seeds()).flatmap(
    lambda seed: st.tuples(st.integers(0, len(seed)), st.binary(max_size=12), st.integers(0, len(seed))).map(
        lambda change: seed[: change[0]] + change[1] + seed[change[2] :]
    )
)
unhurried = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@unhurried
@given(responses)
def test_responses_made_of_their_own_pieces_are_read(response: bytes):
    response_parser(response)


@pytest.mark.parametrize("name", TARGETS)
@unhurried
@given(data=damaged | st.binary(max_size=400))
def test_damaged_inputs_are_read_or_refused(name: str, data: bytes):
    TARGETS[name](data)


@pytest.mark.parametrize("piece", [*PIECES, b"</description> <think>", b"</think>\\boxed{", b"\\boxed{{}", b"<  /"])
def test_time_grows_with_the_length_and_not_with_its_square(piece: bytes):
    def seconds(length: int) -> float:
        response = (piece * (length // len(piece) + 1))[:length]
        started = time.process_time()
        response_parser(response)
        return time.process_time() - started

    seconds(1000)
    short, long = min(seconds(100_000) for _ in range(3)), min(seconds(800_000) for _ in range(3))
    assert long < 0.05 + 24 * short


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this machine")
@pytest.mark.parametrize("name", TARGETS)
def test_a_fuzzer_that_watches_coverage_finds_no_crash(name: str, tmp_path: Path):
    for number, seed in enumerate(seeds()):
        (tmp_path / f"seed-{number}").write_bytes(seed)
    process = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.coverage_guided", name, str(SECONDS), tmp_path],
        capture_output=True,
        text=True,
        timeout=SECONDS + 120,
    )
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-5000:]
