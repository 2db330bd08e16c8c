import subprocess
from pathlib import Path

import pytest

from vision_sr1.pipeline.wire import SCHEMA_VERSION, WireError, decode
from vision_sr1.v1 import pipeline_pb2 as pb

ROOT = Path(__file__).parents[3]


def test_generated_stubs_are_those_of_the_proto_files(tmp_path: Path):
    """`make protos` was forgotten where this fails."""
    import sys

    subprocess.run(
        [ROOT / "scripts" / "build_protos", tmp_path],
        check=True,
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"},
    )
    fresh = {f.name: f.read_text() for f in (tmp_path / "vision_sr1" / "v1").iterdir() if f.is_file()}
    kept = {f.name: f.read_text() for f in (ROOT / "vision_sr1" / "v1").iterdir() if f.is_file()}
    assert kept == fresh


def test_a_newer_schema_is_refused_with_both_versions():
    message = pb.Prompt(schema_version=SCHEMA_VERSION + 1, id="0/1").SerializeToString()
    with pytest.raises(WireError, match=f"schema version {SCHEMA_VERSION + 1}, this service knows {SCHEMA_VERSION}"):
        decode(pb.Prompt, message)


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b""])
def test_what_is_no_message_is_refused(data: bytes):
    with pytest.raises(WireError):
        decode(pb.Prompt, data)


def test_a_group_is_the_concatenation_of_its_members():
    """The Lua script that assembles groups relies on it."""
    members = [
        pb.ScoredGroup(schema_version=1, id="0/7", rollouts=[pb.ScoredRollout(response=f"answer {i}")])
        for i in range(3)
    ]
    group = decode(pb.ScoredGroup, b"".join(m.SerializeToString() for m in members))
    assert group.id == "0/7"
    assert [r.response for r in group.rollouts] == ["answer 0", "answer 1", "answer 2"]
