"""A policy as others use it: exported, loaded without this project, served by plain vLLM, asked by hand."""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open
from transformers import AutoModelForImageTextToText
from typer.testing import CliRunner

from tests.system.conftest import Run
from vision_sr1.cli.ask import Model
from vision_sr1.cli.main import app
from vision_sr1.config import load_config
from vision_sr1.prompting.prompt_template import IMAGE_MARKER
from vision_sr1.runtime.ports import free_port

PLAIN = """
import sys
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1])
processor = AutoProcessor.from_pretrained(sys.argv[1])
assert not [name for name in sys.modules if name.split(".")[0] in ("vision_sr1", "learner", "actors")]
torch.save({name: tensor for name, tensor in model.state_dict().items()}, sys.argv[2])
print(processor.image_processor.size["shortest_edge"], processor.image_processor.size["longest_edge"])
"""


def invoke(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result.output


@pytest.fixture(scope="module")
def run_folder(trained: Run) -> Path:
    return trained.folder / "runs" / "run"


def names(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return set(file.keys())


def test_transformers_loads_it_without_this_project(
    exported: Path, tmp_path: Path, run_folder: Path, cold_start_model: Path
):
    command: list[str | Path] = [sys.executable, "-c", PLAIN, exported, tmp_path / "weights.pt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3136", "3136"], "images are scaled as in training"
    loaded = torch.load(tmp_path / "weights.pt")
    policy = AutoModelForImageTextToText.from_pretrained(run_folder / "checkpoints" / "000003" / "policy").state_dict()
    assert loaded.keys() == policy.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in policy.items())
    assert names(exported) == names(cold_start_model), "the base model's names"


def test_the_card_is_as_the_hub_reads_it_and_the_checksums_hold(exported: Path):
    card = ModelCard.load(exported / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "image-text-to-text"
    results = {(result.dataset_name, result.metric_type): result.metric_value for result in card.data.eval_results}
    assert ("normal", "accuracy") in results
    assert ("normal", "shortcut") in results
    assert "arXiv:2508.19652" in card.text
    lines = [line.split("  ") for line in (exported / "SHA256SUMS").read_text().splitlines()]
    sums = {name: digest for digest, name in lines}
    assert sums == {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in exported.iterdir()
        if file.name != "SHA256SUMS"
    }
    assert "password" not in (exported / "vision_sr1.yaml").read_text()


def test_a_version_that_cannot_be_exported_is_said_so(run_folder: Path, exported: Path, tmp_path: Path):
    assert "has no version '7'; there are: " in invoke("export", run_folder, "--version", "7", status=2)
    assert "has no best checkpoint: learner.keep_best" in invoke("export", run_folder, "--version", "best", status=2)
    assert "is there already" in invoke("export", run_folder, "--output", exported, status=2)
    assert "has no adapter: the run learned all weights" in invoke("export", run_folder, "--adapter", status=2)
    assert "is not the folder of a run" in invoke("export", tmp_path, status=2)


def test_a_hub_that_cannot_be_reached_is_said_so_and_the_folder_stays(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{free_port()}")
    output = invoke("export", run_folder, "--output", tmp_path / "model", "--push", "org/name", status=2)
    assert "was not uploaded to org/name" in output.replace("\n", " ")
    assert (tmp_path / "model" / "README.md").is_file()


def held_out(run_folder: Path) -> list[tuple[dict[str, str], str, bytes]]:
    """What the actors answered greedily at the last version: the record, the question, the image."""
    config = load_config(run_folder / "config.yaml").config
    rows = pq.read_table(config.data.evaluation["normal"]).to_pylist()
    lines = (run_folder / "evaluation" / "v3-normal.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [(r, rows[r["index"]]["problem"], rows[r["index"]]["images"][0]["bytes"]) for r in records]


def test_vllm_serves_it_and_answers_as_the_actors_did(api_server: str, run_folder: Path):
    for record, question, image in held_out(run_folder)[:16]:
        assert question.startswith(IMAGE_MARKER)
        uri = "data:image/png;base64," + base64.b64encode(image).decode()
        content = [
            {"type": "image_url", "image_url": {"url": uri}},
            {"type": "text", "text": question.removeprefix(IMAGE_MARKER)},
        ]
        asked = {"model": "reader", "temperature": 0, "max_tokens": 64}
        reply = httpx.post(
            f"{api_server}/v1/chat/completions",
            json={**asked, "messages": [{"role": "user", "content": content}]},
            timeout=60,
        )
        assert reply.is_success, reply.text
        assert reply.json()["choices"][0]["message"]["content"].strip() == record["response"].strip()


def test_the_cards_example_answers_as_the_actors_did(exported: Path, run_folder: Path, tmp_path: Path):
    folder = shutil.copytree(exported, tmp_path / "model")
    card = (folder / "README.md").read_text(encoding="utf-8")
    example = card.partition("```python\n")[2].partition("```")[0]
    for record, question, image in held_out(run_folder)[:2]:
        (folder / "picture.png").write_bytes(image)
        asked = example.replace('"what color is the triangle"', repr(question.removeprefix(IMAGE_MARKER)))
        assert asked != example or question.endswith("what color is the triangle")
        done = subprocess.run([sys.executable, "-c", asked], cwd=folder, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == record["response"].strip()


def test_a_question_is_asked_by_hand_and_answered_as_by_the_actors(exported: Path, run_folder: Path, tmp_path: Path):
    answered = held_out(run_folder)
    model = Model(load_config(exported / "vision_sr1.yaml", [f"model.path={exported}"]).config)
    for record, question, image in answered[:8]:
        answer = model.ask(question, [image])
        assert answer.response.strip() == record["response"].strip()
        assert (answer.answer_from_description or "") == record["requery_answer"]
    described = [place for place in answered if place[0]["description"] and place[0]["requery_answer"]]
    record, question, image = described[0]
    (tmp_path / "picture.png").write_bytes(image)
    output = invoke("ask", exported, tmp_path / "picture.png", question.removeprefix(IMAGE_MARKER))
    assert record["description"].strip() in output
    assert "from the description alone: " in output


def test_questions_that_cannot_be_asked_are_said_so(exported: Path, tmp_path: Path):
    (tmp_path / "text.png").write_text("no image")
    assert "8 bytes that are not an image" in invoke("ask", exported, tmp_path / "text.png", "what ?", status=2)
    assert "is not a model: it has no config.json" in invoke("ask", tmp_path, tmp_path / "text.png", "what ?", status=2)
