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
    "trained/config.json": "{}",
    "made data/normal.parquet": "x",
    "folder/file": "x",
    "packages/sr1_fails/__init__.py": "raise RuntimeError('no license')",
    "packages/sr1_needs/__init__.py": "import nope_x",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, shapes: dict[str, Path]) -> Path:
    """Files to make mistakes with, in a folder whose name needs quoting."""
    datasets.disable_progress_bars()  # as the command line does before it imports the library
    folder = tmp_path_factory.mktemp("it's süß")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    datasets.Dataset.from_dict({"problem": [], "answer": []}).to_parquet(folder / "no rows.parquet")
    sets = {"train": str(shapes["train"]), "sft": str(shapes["cold_start"]), "prompt_template": "plain_answer"}
    run = {"run": {"dir": str(folder / "runs")}, "model": {"path": str(tiny_model), "max_model_len": 256}, "data": sets}
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    (folder / "demos" / "rl").mkdir(parents=True)
    (folder / "demos" / "rl" / "config.yaml").write_text("run: {name: rl}\n")
    (folder / "digits").mkdir()
    made = {name: str(folder / "made" / name) for name in ("cold", "tiny", "rows.parquet")}
    rl = {"model": {"path": made["cold"]}, "data": {"train": made["rows.parquet"]}}
    cold = {"model": {"path": made["tiny"]}, "data": {"sft": "x.parquet"}, "learner": {"sft": {"output": made["cold"]}}}
    for name, tree in (("rl", rl), ("cold", cold)):
        (folder / "digits" / f"{name}.yaml").write_text(yaml.safe_dump(tree | {"run": {"dir": str(folder / "runs")}}))
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
    ("train '{f}/empty section.yaml' run.dir={f}/runs", "data.train names no prompts: set data.train=FILE"),
    ("train {f}/number.yaml", "unknown key 5: known here: run, model"),
    ("train {f}/tag.yaml", "tag.yaml is not valid YAML at line 1, column 6: could not determine a constructor"),
    ("train {f}/date.yaml", "date.yaml is not valid YAML: month must be in 1..12"),
    ("train {f}/extends.yaml", "{f}/extends.yaml extends {f}/nope.yaml, and there is no such file"),
    ("train '{f}/extends two.yaml'", "extends takes the path of one file, not ['a', 'b']"),
    ("train {f}/empty.yaml run.dir={f}/runs", "data.train names no prompts: set data.train=FILE"),
    ("{train} data.train=[a", "override 'data.train=[a' is not valid YAML at line 1, column 3: expected"),
    ("{train} 'data.train=a: b: c'", "override 'data.train=a: b: c' is not valid YAML at line 1, column 5"),
    ("{train} data.train=", "data.train names no prompts"),
    ("{train} 'data.train=/no where/rows.parquet'", "data.train: no file /no where/rows.parquet (from the command lin"),
    ("{train} data.train={f}/folder", "{f}/folder: the datasets library finds no data files in this folder"),
    ("{train} data.train={f}/file", "{f}/file: files with this ending are not read"),
    ('{train} "data.train={f}/no bytes.parquet"', "no bytes.parquet is not a readable parquet file: …0 bytes"),
    ("{train} data.train={f}/cut.parquet", "cut.parquet is not a readable parquet file"),
    ('{train} "data.train={f}/no rows.parquet"', "no rows.parquet has no rows"),
    ("{train} data.train={f}/empty.jsonl", "empty.jsonl has no rows"),
    ("{train} data.train={f}/columns.jsonl", "has no column 'problem' (data.prompt_key); its columns: question"),
    (
        "{train} data.train={f}/plain.jsonl reward.requery.questions=3",
        "reward.requery.questions: 3, and no row of data.train has further questions: …Name the column",
    ),
    ("{train} 'data.evaluation={{normal: /no.parquet}}'", "data.evaluation.normal: no file /no.parquet (from the comm"),
    ("{train} data.evaluation=/no.parquet", "data.evaluation: must be a section of keys and values (got /no.parquet)"),
    ("{train} data.prompt_template=nope", "no prompt template 'nope': neither a file nor one of answer"),
    ("{train} data.prompt_template={f}/open.jinja", "open.jinja, line 1: unexpected end of template"),
    ("{train} data.image_root=/nope", "data.image_root: there is no folder /nope (from the command line)"),
    ("{train} learner.batches=five", "learner.batches: … valid integer… (got five)"),
    ("{train} learner.batches=-1", "learner.batches: … greater than or equal to 0 (got -1)"),
    ("{train} learner.batches 5", "override 'learner.batches' is not of the form …: write learner.batches=5"),
    ("{train} learner.batches", "override 'learner.batches' is not of the form …: write learner.batches=VALUE"),
    ("train learner.batches=5", "learner.batches=5 is a setting: name the run's YAML file before it"),
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
    (
        "{train} learner.prompts_per_batch=30 learner.prompts_per_step=7",
        "learner.prompts_per_step: 7 does not divide learner.prompts_per_batch (30); possible: 5, 6, 10, 15",
    ),
    ("{train} learner.schedule.warmup_steps=10000", "learner.schedule.warmup_steps: 10000 exceeds the run's 400 optim"),
    ("{train} learner.weights.same_weights_grace_s=90", "learner.weights.same_weights_grace_s: 90.0 must be less than"),
    ("{train} learner.off_policy.correction=icepop", "learner.off_policy.correction: icepop needs the trainer's own"),
    ("{train} actors.placement=shared learner.max_staleness=1", "learner.max_staleness: 1 lets actors answer while"),
    ("{train} reward.requery.when=never", "reward.requery.when: never, and component 'description' uses the re-query"),
    ("{train} reward.second_grader=judge", "reward.judge.url: the grader `judge` needs it, and reward.judge.model"),
    (
        "{train} 'learner.components=[{{name: a, reward: {{nope: 1}}, tokens: [response]}}]'",
        "learner.components: component 'a': unknown reward 'nope'; known: ",
    ),
    ("{train} 'reward.functions={{mine: {{range: [1, 0]}}}}'", "reward.functions.mine.range: [1.0, 0.0]: the first nu"),
    ("{train} 'reward.functions={{mine: {{function: no_such_module:f}}}}'", "there is no module 'no_such_module'"),
    ("{train} 'reward.functions={{f: {{function: sr1_fails.mod:f}}}}'", "'sr1_fails.mod' cannot be imported: RuntimeE"),
    (
        "{train} 'reward.functions={{f: {{function: sr1_needs.mod:f}}}}'",
        "cannot be imported: …'nope_x'",
    ),
    ("{train} reward.requery.template=/no.jinja", "reward.requery.template: no prompt template '/no.jinja': neither"),
    ("{train} tls.enabled=true tls.certificate=/no.crt", "tls.certificate: no file /no.crt (from the command line)"),
    ("{train} metrics.trackers=[wandb]", "metrics.trackers: wandb has no API key here: run `wandb login`, set WANDB_A"),
    ("{train} metrics.trackers=[mlflow]", "mlflow's server http://127.0.0.1:9 does not answer (Connection refused)"),
    ("{train} run.name=a/b", "run.name: … (got a/b)"),
    (
        "{train} run.name=yes",
        "(got true); for text such as yes or on write it in quotes: 'run.name=\"yes\"'",
    ),
    ("{train} 'reward.graders={{1: choice}}'", "reward.graders: the key 1 must be text: write it in quotes"),
    ("{train} reward.graders.a.b=choice", "for the name 'a.b' write 'reward.graders={{\"a.b\": \"choice\"}}'"),
    ("{train} learner.lr=1", "unknown key learner.lr: did you mean learner.learning_rate?"),
    ("{train} run.name=2024", "run.name: … (got 2024); for text write 'run.name=\"2024\"'"),
    ("{train} run.dir={f}/file", "{f}/file/run cannot be written (Not a directory): choose another place"),
    ("{train} run.dir=/proc/nope", "/proc/nope/run cannot be written (No such file or directory)"),
    ("{train} --resume --fresh", "--fresh and learner.resume (--resume) exclude each other"),
    ("{train} --resume", "nothing to resume in {f}/runs/run: leave --resume out to start"),
    ("{train} model.path=/nope/model", "model.path: there is no folder /nope/model (from the command line)"),
    ("{train} data.train=no/such", "data.train: 'no/such' is no folder here and no data set in the hub's cache"),
    ("{train} model.path=no/such", "model.path: 'no/such' is no folder here and no model in the hub's cache"),
    ("{train} model.path={f}/file", "is a file: name its folder"),
    ("{train} model.path={f}/folder", "is not a model: it has no config.json"),
    ("{train} model.dtype=float16", "model.dtype: Input should be 'float32' or 'bfloat16' (got float16)"),
    ("{train} reward.port=99999", "reward.port: … less than or equal to 65535 (got 99999)"),
    ("{train} reward.host=10.255.255.1", "reward.host: '10.255.255.1' is not an address of this machine"),
    ("{train} actors.host=nohost.invalid", "actors.host: 'nohost.invalid' is not an address of this machine"),
    ("{train} actors.port={port}", "actors.port: port {port} is in use: choose another, or leave it out for a free on"),
    ("{train} reward.port={port}", "reward.port: port {port} is in use: choose another, or leave it out for a free on"),
    ("{train} metrics.learner_port={port}", "metrics.learner_port: port {port} is in use"),
    ("{train} metrics.actor_port={port}", "metrics.actor_port: port {port} is in use"),
    (
        "{train} metrics.actor_port=65535 actors.count=2",
        "metrics.actor_port: 65535 for the first of 2 actors leaves t",
    ),
    ("{train} actors.port=31999 actors.count=2", "actors.port: 2 actors cannot share port 31999: leave it out"),
    ("{train} streams.url=redis://:pw@h", "contains a password: leave it out, and set it in the environment as VISIO"),
    ("{train} streams.url=redis://:pw@h", "VISION_SR1_REDIS_PASSWORD (got redis://:********@h)"),
    ("{train} reward.traces.url=postgresql://u:pw@h/d", "VISION_SR1_TRACES_PASSWORD (got postgresql://u:********@h/d)"),
    ("{train} reward.host=0.0.0.0", "reward.host: '0.0.0.0' can be reached from elsewhere: set VISION_SR1_API_TOKEN"),
    ("{train} 'reward.functions={{f: {{}}}}'", "reward.functions.f: no installed package has an entry point of this n"),
    ("{train} streams.url=127.0.0.1:6379", "streams.url: unknown scheme ''; known: redis"),
    ("{train} streams.url=redis://127.0.0.1:port", "streams.url: '127.0.0.1:port' is not of the form host:port"),
    ("{train} streams.url=redis://[::1", "streams.url: is not a URL: Invalid IPv6 URL (got redis://[::1)"),
    ("{train} streams.url=redis+sentinel://a:1/main/two", "'a:1/main/two' is not host:port,host:port/SERVICE/NUMBER"),
    ("{train} reward.traces.url=postgresql://[x/y", "reward.traces.url: is not a URL: Invalid IPv6 URL"),
    ("{train} reward.judge.url=localhost:8000", "reward.judge.url: must begin with http:// or https://"),
    ("{train} reward.judge.url=http://host:port/v1", "reward.judge.url: is not a URL: Port could not be cast to integ"),
    ("{train} metrics.otlp_endpoint=collector:4318", "metrics.otlp_endpoint: must begin with http:// or https://"),
    ("{sft} data.sft=", "data.sft names no conversations: set data.sft=FILE"),
    ("{sft} data.sft={f}/columns.jsonl", "has no conversations (messages, conversations, prompt and completion)"),
    ("{sft} data.sft_evaluation=/no.jsonl", "data.sft_evaluation: no file /no.jsonl (from the command line)"),
    ("{sft} learner.sft.steps=0", "learner.sft.steps: … greater than 0 (got 0)"),
    (
        "{sft} learner.sft.output={f}/folder",
        "learner.sft.output: {f}/folder already exists; remove it or choose another (from the command line)",
    ),
    ("{sft} --resume", "nothing to resume in {f}/runs/run: leave --resume out to start"),
    ("demo --root {f}/folder", "{f}/folder holds files that do not belong to a demo: choose another --root"),
    ("demo --root {f}/file", "{f}/file cannot be written (it is a file): choose another place"),
    ("demo --root {f}/demo --resume", "{f}/demo holds no demo to resume"),
    ("demo --root {f}/demo --examples nope", "no task 'nope'"),
    ("traces {f}/nope", "{f}/nope is not the folder of a run: there is no such folder"),
    (
        "traces {f}/demos/rl/config.yaml",
        "{f}/demos/rl/config.yaml is a file: name the run's folder, such as {f}/d",
    ),
    ("traces {f}/demos", "{f}/demos is not the folder of a run: it has no config.yaml; did you mean {f}/demos/rl?"),
    ("export {f}/demos", "{f}/demos is not the folder of a run: it has no config.yaml; did you mean {f}/demos/rl?"),
    ("eval {f}/demos --suite gsm8k", "{f}/demos is not the folder of a run: it has no config.yaml; did you mean {f}/d"),
    ("ask {f}/demos/rl {f}/file what", "{f}/demos/rl is the folder of a run: `vision-sr1 export {f}/demos/rl` makes a"),
    ("train {f}/demos/rl", "{f}/demos/rl is a folder: name the run's YAML file, {f}/demos/rl/config.yaml"),
    ("export {f}/folder", "{f}/folder is not the folder of a run"),
    ("eval /nope/model --suite gsm8k --output {f}/evaluation", "model.path: there is no folder /nope/model"),
    ("eval no/such --suite gsm8k --output {f}/evaluation", "model.path: 'no/such' is no folder here and no model"),
    ("plan /nope/model --gpus 8", "model.path: there is no folder /nope/model"),
    ("plan no/such --gpus 8", "model.path: 'no/such' is no folder here and no model in the hub's cache"),
    ("ask {f}/folder {f}/nope.png what", "there is no file {f}/nope.png"),
    ("ask no/such {f}/file what", "model.path: 'no/such' is no folder here and no model in the hub's cache"),
    ("data check ''", "the name of a data set is empty: give a file, a folder or a hub name"),
    ("data check /", "/: the datasets library finds no data files in this folder"),
    ("data mix {f}/mixed.parquet {rows}=1e12", "with weights 1000000000000.0 an epoch has … rows, more than 1e+08"),
    ("data convert {rows} {f}/rows.jsonl", "{f}/rows.jsonl: what is written is parquet: choose a name that ends in .p"),
    ("data split {rows} {f}/parts --held-out 0", "with 0 held out no row of … is; give 1 or more, or a share below 1"),
    (
        "data shapes '{f}/made data'",
        "{f}/made data/normal.parquet is there already; remove it or choose",
    ),
    ("model tiny {f}/trained", "{f}/trained has a model already; remove it or choose another folder"),
    ("data check no/such", "'no/such' is no folder here and no data set in the hub's cache, and the hub"),
    ("train {f}/digits/rl.yaml", "data.train: {f}/made/rows.parquet does not exist yet: `vision-sr1 data digits {f}/m"),
    (
        "data check {f}/columns.jsonl --config {f}/digits/rl.yaml",
        "model.path: {f}/made/cold does not exist yet: `vision-sr1 sft {f}/digits/cold.yaml` makes it",
    ),
    ("sft {f}/digits/cold.yaml data.sft={rows}", "{f}/made/tiny does not exist yet: `vision-sr1 model tiny {f}/made/t"),
    ("config show --yaml --json", "--yaml, --json and --describe exclude each other: give one of them"),
    ("config init {f}/new.yaml --example nope", "--example: no example 'nope'; there are cold_start_3b"),
    ("config init {f}/run.yaml", "{f}/run.yaml already exists; remove it or choose another name"),
    ("runs list {f}/nope", "there is no folder {f}/nope"),
    ("runs compare {f}/demos/rl", "runs compare takes two runs or more"),
    ("runs compare {f}/demos/rl {f}/demos", "{f}/demos is not the folder of a run"),
    ("plan {f}/folder --gpus 8", "is not a model: it has no config.json"),
    ("model tiny {f}/file", "{f}/file: File exists"),
    ("data convert {f}/columns.jsonl /proc/x.parquet data.prompt_key=question data.answer_key=question", "/proc/x"),
    ("streams status {f}/run.yaml", "no Redis of the run 'run' is running under {f}/runs/run: start the run"),
]


@pytest.mark.parametrize(("line", "message"), MISTAKES)
def test_a_mistake_is_told_in_one_line(
    folder: Path, shapes: dict[str, Path], taken_port: int, line: str, message: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(str(folder / "packages"))
    monkeypatch.setenv("NETRC", str(folder / "no netrc"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    before = sorted(folder.rglob("*.parquet"))
    words = shlex.split(line.replace("{train}", "train {f}/run.yaml").replace("{sft}", "sft {f}/run.yaml"))
    values = {"f": folder, "port": taken_port, "rows": shapes["cold_start"]}
    done = CliRunner().invoke(app, [word.format(**values) for word in words])
    said = done.output.strip()
    assert re.search(re.escape(message.format(f=folder, port=taken_port)).replace("…", ".*"), said), said
    assert "\n" not in said
    assert (done.exit_code, type(done.exception)) == (2, SystemExit)
    assert sorted(folder.rglob("*.parquet")) == before
    assert not any((folder / name).exists() for name in ("runs/run", "demo", "evaluation"))


@pytest.mark.skipif(bool(visible_gpus()), reason="there are GPUs here")
def test_a_gpu_that_is_not_there_is_missed_at_once(folder: Path):
    done = CliRunner().invoke(app, ["train", str(folder / "run.yaml"), "actors.device=cuda"])
    assert done.output.startswith("actors.device: cuda, and there is no GPU here: set actors.device=auto")
