"""Mistakes of users: each is told in one line that names the value, before anything is started or written."""

import re
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
import yaml
from typer.testing import CliRunner

from vision_sr1.cli.main import app
from vision_sr1.runtime.gpus import visible_gpus

FILES: dict[str, str | bytes] = {
    "tab.yaml": "run:\n\tname: x\n",
    "broken.yaml": "run: {name: x\ndata: [\n",
    "list.yaml": "- a\n",
    "text.yaml": "hello",
    "binary.yaml": bytes(range(256)),
    "latin.yaml": "run: {name: ü}".encode("latin-1"),
    "twice.yaml": "learner:\n  batches: 1\n  batches: 2\n",
    "section.yaml": "learner: 5\n",
    "empty section.yaml": "learner:\n",
    "number.yaml": "5: 6\n",
    "tag.yaml": "run: !!python/object:os.system {}\n",
    "date.yaml": "run: {name: 2024-13-45}\n",
    "extends.yaml": "extends: nope.yaml\n",
    "extends two.yaml": "extends: [a, b]\n",
    "empty.yaml": "",
    "file": "x",
    "no bytes.parquet": b"",
    "cut.parquet": b"PAR1 and nothing",
    "empty.jsonl": "",
    "columns.jsonl": '{"question": "?"}\n',
    "plain.jsonl": '{"problem": "1 + 1?", "answer": "2"}\n',
    "open.jinja": "{{ question",
    "folder/file": "x",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, shapes: dict[str, Path]) -> Path:
    """Files to make mistakes with, in a folder whose name needs quoting."""
    datasets.disable_progress_bars()  # as the command line does before it imports the library
    folder = tmp_path_factory.mktemp("it's süß")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    datasets.Dataset.from_dict({"problem": [], "answer": []}).to_parquet(folder / "no rows.parquet")
    sets = {"train": str(shapes["train"]), "sft": str(shapes["cold_start"]), "prompt_template": "plain_answer"}
    run = {"run": {"dir": str(folder / "runs")}, "model": {"path": str(tiny_model), "max_model_len": 256}, "data": sets}
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    return folder


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield int(taken.getsockname()[1])


MISTAKES = [
    ("train {f}/nope.yaml", "no configuration file {f}/nope.yaml"),
    ("train {f}/folder", "{f}/folder is a folder: name the run's YAML file"),
    ("train {f}/tab.yaml", "tab.yaml is not valid YAML at line 2, column 1: …; indent with spaces"),
    ("train {f}/broken.yaml", "broken.yaml is not valid YAML at line 2, column 5: expected"),
    ("train {f}/list.yaml", "list.yaml must hold a mapping of sections, not list"),
    ("train {f}/text.yaml", "text.yaml must hold a mapping of sections, not str"),
    ("train {f}/binary.yaml", "binary.yaml is not UTF-8 text (invalid start byte at byte 128)"),
    ("train {f}/latin.yaml", "latin.yaml is not UTF-8 text"),
    ("train {f}/twice.yaml", "twice.yaml is not valid YAML at line 3, column 3: batches is there twice"),
    ("train {f}/section.yaml", "learner: must be a section of keys and values (got 5)"),
    ("train '{f}/empty section.yaml'", "learner: must be a section of keys and values (got None)"),
    ("train {f}/number.yaml", "unknown key 5: known here: run, model"),
    ("train {f}/tag.yaml", "tag.yaml is not valid YAML at line 1, column 6: could not determine a constructor"),
    ("train {f}/date.yaml", "date.yaml is not valid YAML: month must be in 1..12"),
    ("train {f}/extends.yaml", "{f}/extends.yaml extends {f}/nope.yaml, and there is no such file"),
    ("train '{f}/extends two.yaml'", "extends takes the path of one file, not ['a', 'b']"),
    ("train {f}/empty.yaml run.dir={f}/runs", "data.train names no prompts: set data.train=FILE"),
    ("{train} data.train=[a", "override 'data.train=[a' is not valid YAML at line 1, column 3: expected"),
    ("{train} 'data.train=a: b: c'", "override 'data.train=a: b: c' is not valid YAML at line 1, column 5"),
    ("{train} data.train=", "data.train names no prompts"),
    ("{train} 'data.train=/no where/rows.parquet'", "no data file /no where/rows.parquet"),
    ("{train} data.train={f}/folder", "{f}/folder: the datasets library finds no data files in this folder"),
    ("{train} data.train={f}/file", "{f}/file: files with this ending are not read"),
    ('{train} "data.train={f}/no bytes.parquet"', "no bytes.parquet is not a readable parquet file: …0 bytes"),
    ("{train} data.train={f}/cut.parquet", "cut.parquet is not a readable parquet file"),
    ('{train} "data.train={f}/no rows.parquet"', "no rows.parquet has no rows"),
    ("{train} data.train={f}/empty.jsonl", "empty.jsonl has no rows"),
    ("{train} data.train={f}/columns.jsonl", "has no column 'problem' (data.prompt_key); its columns: question"),
    (
        "{train} data.train={f}/plain.jsonl reward.requery.questions=3",
        "reward.requery.questions is 3, and no row of data.train has further questions: …Name the column",
    ),
    ("{train} 'data.evaluation={{normal: /no.parquet}}'", "no data file /no.parquet"),
    ("{train} data.evaluation=/no.parquet", "data.evaluation: must be a section of keys and values (got /no.parquet)"),
    ("{train} data.prompt_template=nope", "no prompt template 'nope': neither a file nor one of answer"),
    ("{train} data.prompt_template={f}/open.jinja", "open.jinja, line 1: unexpected end of template"),
    ("{train} data.image_root=/nope", "data.image_root: there is no folder '/nope'"),
    ("{train} learner.batches=five", "learner.batches: … valid integer… (got five)"),
    ("{train} learner.batches=-1", "learner.batches: … greater than or equal to 0 (got -1)"),
    ("{train} learner.batches 5", "override 'learner.batches' is not of the form …: write learner.batches=VALUE"),
    ("{train} learner.bathces=5", "unknown key learner.bathces: did you mean learner.batches?"),
    ("{train} leaner.batches=5", "unknown key leaner: did you mean learner?"),
    ("{train} batches=5", "override 'batches=5' is not of the form section.key=value"),
    ("{train} learner..batches=5", "override 'learner..batches=5' is not of the form section.key=value"),
    ("{train} learner.batches=x learner.batches=-2", "learner.batches: … (got -2)"),  # the last one counts
    ("{train} learner.learning_rate=nan", "learner.learning_rate: … finite number (got nan)"),
    ("{train} learner.learning_rate=.inf", "learner.learning_rate: … finite number (got inf)"),
    ("{train} sampling.temperature=.inf", "sampling.temperature: … (got inf)"),
    (
        "{train} run.seed=99999999999999999999999",
        "run.seed: … less than 9223372036854775808",
    ),
    ("{train} sampling.group_size=1", "sampling.group_size: … greater than or equal to 2 (got 1)"),
    ("{train} learner.prompts_per_batch=30 learner.prompts_per_step=7", "prompts_per_step (7) must divide"),
    ("{train} run.name=a/b", "run.name: … (got a/b)"),
    ("{train} run.name=2024", "run.name: … (got 2024); for text write 'run.name=\"2024\"'"),
    ("{train} run.dir={f}/file", "{f}/file/run cannot be written (Not a directory): choose another place"),
    ("{train} run.dir=/proc/nope", "/proc/nope/run cannot be written (No such file or directory)"),
    ("{train} --resume --fresh", "--fresh and learner.resume (--resume) exclude each other"),
    ("{train} --resume", "runs/run holds no run to resume: leave --resume out"),
    ("{train} model.path=/nope/model", "model.path: there is no folder '/nope/model'"),
    ("{train} model.path={f}/file", "is a file: name its folder"),
    ("{train} model.path={f}/folder", "is not a model: it has no config.json"),
    ("{train} model.dtype=float16", "model.dtype: Input should be 'float32' or 'bfloat16' (got float16)"),
    ("{train} reward.port=99999", "reward.port: … less than or equal to 65535 (got 99999)"),
    ("{train} reward.host=10.255.255.1", "reward.host: '10.255.255.1' is not an address of this machine"),
    ("{train} actors.host=nohost.invalid", "actors.host: 'nohost.invalid' is not an address of this machine"),
    ("{train} actors.port={port}", "actors.port {port} is in use: choose another, or 0"),
    ("{train} streams.url=127.0.0.1:6379", "streams.url: unknown scheme ''; known: redis"),
    ("{train} streams.url=redis://127.0.0.1:port", "streams.url: '127.0.0.1:port' is not of the form host:port"),
    ("{train} streams.url=redis://[::1", "streams.url: is not a URL: Invalid IPv6 URL (got redis://[::1)"),
    ("{train} streams.url=redis+sentinel://a:1/main/two", "'a:1/main/two' is not host:port,host:port/SERVICE/NUMBER"),
    ("{train} reward.traces.url=postgresql://[x/y", "reward.traces.url: is not a URL: Invalid IPv6 URL"),
    ("{train} reward.judge.url=localhost:8000", "reward.judge.url: must begin with http:// or https://"),
    ("{train} metrics.otlp_endpoint=collector:4318", "metrics.otlp_endpoint: must begin with http:// or https://"),
    ("{sft} data.sft=", "data.sft names no conversations: set data.sft=FILE"),
    ("{sft} data.sft={f}/columns.jsonl", "has no conversations (messages, conversations, prompt and completion)"),
    ("{sft} data.sft_evaluation=/no.jsonl", "no data file /no.jsonl"),
    ("{sft} learner.sft.steps=0", "learner.sft.steps: … greater than 0 (got 0)"),
    (
        "{sft} learner.sft.output={f}/folder",
        "{f}/folder already exists; remove it or choose another learner.sft.output",
    ),
    ("demo --root {f}/folder", "{f}/folder holds files that do not belong to a demo: choose another --root"),
    ("demo --root {f}/file", "{f}/file cannot be written (it is a file): choose another place"),
    ("demo --root {f}/demo --resume", "{f}/demo holds no demo to resume"),
    ("demo --root {f}/demo --examples nope", "no task 'nope'"),
    ("traces {f}/nope", "{f}/nope is not the folder of a run"),
    ("export {f}/folder", "{f}/folder is not the folder of a run"),
    ("eval /nope/model --suite gsm8k --output {f}/evaluation", "there is no folder '/nope/model'"),
    ("plan /nope/model --gpus 8", "model.path: there is no folder '/nope/model'"),
    ("plan {f}/folder --gpus 8", "is not a model: it has no config.json"),
    ("model tiny {f}/file", "{f}/file: File exists"),
    ("data convert {f}/columns.jsonl /proc/x.parquet data.prompt_key=question data.answer_key=question", "/proc/x"),
    ("streams status {f}/run.yaml", "no Redis of the run 'run' is running under {f}/runs/run: start the run"),
]


@pytest.mark.parametrize(("line", "message"), MISTAKES)
def test_a_mistake_is_told_in_one_line(folder: Path, taken_port: int, line: str, message: str):
    before = sorted(folder.rglob("*.parquet"))
    words = shlex.split(line.replace("{train}", "train {f}/run.yaml").replace("{sft}", "sft {f}/run.yaml"))
    done = CliRunner().invoke(app, [word.format(f=folder, port=taken_port) for word in words])
    said = done.output.strip()
    assert re.search(re.escape(message.format(f=folder, port=taken_port)).replace("…", ".*"), said), said
    assert "\n" not in said
    assert (done.exit_code, type(done.exception)) == (2, SystemExit)
    assert sorted(folder.rglob("*.parquet")) == before
    assert not any((folder / name).exists() for name in ("runs/run", "demo", "evaluation"))


@pytest.mark.skipif(bool(visible_gpus()), reason="there are GPUs here")
def test_a_gpu_that_is_not_there_is_missed_at_once(folder: Path):
    done = CliRunner().invoke(app, ["train", str(folder / "run.yaml"), "actors.device=cuda"])
    assert done.output.strip() == "actors.device is cuda, and there is no GPU here: set actors.device=auto"
