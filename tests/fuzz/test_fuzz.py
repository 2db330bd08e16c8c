"""Whatever bytes come in, nothing crashes and nothing takes for ever."""

import contextlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, response_parser, seeds
from vision_sr1.config import DataConfig
from vision_sr1.data import DataError, Questions

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


texts = (
    st.none()
    | st.text(max_size=20)
    | st.sampled_from(["<image>", "<image> <image>?", "<|im_end|>", "\0", "$\\frac{1}{2}$"])
)
pictures = st.none() | st.lists(
    st.fixed_dictionaries(
        {
            "bytes": st.none() | st.binary(max_size=30) | st.sampled_from(seeds()),
            "path": texts | st.just("../secret.png"),
        }
    ),
    max_size=2,
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(st.tuples(texts | st.binary(max_size=9), texts, pictures), min_size=1, max_size=4),
    cut=st.none() | st.integers(1, 400),
)
@pytest.mark.slow
def test_rows_of_any_data_set_are_read_or_refused(
    rows: list[tuple[Any, ...]], cut: int | None, tmp_path_factory: pytest.TempPathFactory
):
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    problems = [row[0] if isinstance(row[0], bytes) or row[0] is None else row[0].encode() for row in rows]
    table = {"problem": problems, "answer": [row[1] for row in rows], "images": [row[2] for row in rows]}
    pq.write_table(pa.table({**table, "answer": pa.array(table["answer"], pa.string())}), path)
    if cut is not None:
        path.write_bytes(path.read_bytes()[:-cut])
    try:
        questions = Questions(str(path), DataConfig())
    except DataError:
        return
    for index in range(len(questions)):
        with contextlib.suppress(DataError):
            row = questions[index]
            assert row.question.strip()
            assert row.answer.strip()


@pytest.mark.timeout(60)  # what grows with the square of the length takes hours
@pytest.mark.parametrize("piece", [*PIECES, b"</description> <think>", b"</think>\\boxed{", b"\\boxed{{}", b"<  /"])
def test_long_responses_of_one_piece_are_read(piece: bytes):
    response_parser(piece * (2_000_000 // len(piece)))


@pytest.mark.full(sibling="tests/fuzz/test_fuzz.py::test_damaged_inputs_are_read_or_refused")
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
