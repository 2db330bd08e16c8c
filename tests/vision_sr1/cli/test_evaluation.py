"""From answers to numbers and pages; the services that answer are in tests/system/test_evaluation.py."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Browser
from typer.testing import CliRunner

from tests.vision_sr1.cli.test_benchmarks import png
from vision_sr1.cli.evaluation.benchmark_graders import data_source, with_graders
from vision_sr1.cli.evaluation.benchmarks import SUITES, Item, benchmark
from vision_sr1.cli.evaluation.evaluate import chosen_benchmarks
from vision_sr1.cli.evaluation.failures import write_failures
from vision_sr1.cli.evaluation.harness_files import write_harness_files
from vision_sr1.cli.evaluation.paper_results import PAPER
from vision_sr1.cli.evaluation.records import Records
from vision_sr1.cli.evaluation.report import Evaluated, markdown, report, write_report
from vision_sr1.cli.evaluation.results import Interval, Result, average, result
from vision_sr1.cli.main import app
from vision_sr1.config import Config, ConfigError, EvaluationConfig, RewardConfig, load_config


def answer(index: int, accuracy: float | None = 1.0, visual: float = 1.0, **more: Any) -> dict[str, Any]:
    given = {} if accuracy is None else {"accuracy": accuracy}
    text = {"question": "<image>what?", "reference": "red", "response": f"answer {index}", "requery_response": "blue"}
    lengths = {"response_tokens": 10 + index, "description_tokens": 4, "cut_off": False}
    return {"index": index, "tags": {}, "visual": visual, "format": 1.0, **text, **lengths, **given, **more}


def score_of(found: Result) -> Interval:
    assert found.score is not None
    return found.score


def test_the_interval_covers_the_truth_as_often_as_it_says():
    chance, truth, covered = np.random.default_rng(1), 0.7, 0
    for _ in range(200):
        records = [answer(n, float(right)) for n, right in enumerate(chance.random(150) < truth)]
        found, _ = result(benchmark("mine"), records, 300)
        covered += score_of(found).low <= truth <= score_of(found).high
    assert 180 <= covered <= 199


def test_an_average_counts_each_benchmark_the_same_and_is_surer_than_one_of_them():
    one = result(benchmark("a"), [answer(n, float(n % 2)) for n in range(400)], 500)
    other = result(benchmark("b"), [answer(n, 1.0) for n in range(10)], 500)
    both = average([one, other])
    assert both is not None
    assert both.score == pytest.approx(0.75)
    assert both.high - both.low == pytest.approx((score_of(one[0]).high - score_of(one[0]).low) / 2, rel=0.1)


def test_what_was_not_answered_is_wrong_and_what_was_not_graded_or_asked_does_not_count():
    records = [
        answer(0),
        answer(1, visual=0.0),
        answer(2, 0.0, 0.0, unanswered=True),
        answer(3, None),
        {"index": 4, "refused": "row 4: no question"},
    ]
    found, _ = result(benchmark("mine"), records, 10)
    assert (found.questions, found.refused, found.unanswered, found.unscored) == (4, 1, 1, 1)
    assert score_of(found).score == pytest.approx(2 / 3)
    assert found.means["shortcut"] == pytest.approx(1 / 3), "of all, as the paper has it"
    assert found.means["visual"] == pytest.approx(1 / 3)


def test_accuracies_are_broken_down_by_tags_of_few_values():
    tags = [{"level": str(n % 2), "id": str(n), "set": "0"} for n in range(60)]
    found, _ = result(benchmark("mine"), [answer(n, float(n % 2), tags=tags[n]) for n in range(60)], 10)
    assert found.by == {"level": {"0": (30, 0.0), "1": (30, 1.0)}}


def test_text_alone_has_no_visual_rates():
    records = [{key: value for key, value in answer(n).items() if key != "visual"} for n in range(3)]
    found, _ = result(benchmark("gsm8k"), records, 10)
    assert not {"visual", "shortcut"} & found.means.keys()


def all_of_the_paper(accuracy: float = 0.5) -> dict[str, list[dict[str, Any]]]:
    return {name: [answer(n, float(n < 10 * accuracy)) for n in range(10)] for name in SUITES["paper"]}


def test_the_table_stands_beside_the_papers(tmp_path: Path):
    config = load_config(None, ["evaluation.resamples=50"]).config
    records = all_of_the_paper()
    done = report(config, Evaluated("org/model", 0, {}), records)
    text = markdown(done, {})
    assert "| MMMU-Pro | 10 | 50.0 |" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| MMMU |")]
    assert line.endswith("| 49.6 | 52.2 |")
    (line,) = [line for line in text.splitlines() if "the paper's seven" in line]
    assert line.endswith("| 48.8 | 52.2 |")
    assert "a language shortcut rate of 9.4" in text
    fewer = report(config, Evaluated("org/model", 0, {}), {"mmmu": records["mmmu"]})
    assert "average" not in markdown(fewer, {}).partition("The paper's columns")[0]
    two = report(config, Evaluated("org/model", 0, {}), {name: records[name] for name in ("mmmu", "mathverse")})
    assert "| **average** |" in markdown(two, {})
    assert "the paper's seven" not in markdown(two, {})
    for paper in PAPER.values():
        assert paper.average == pytest.approx(np.mean(list(paper.scores.values())), abs=0.06)


@pytest.fixture
def evaluated(tmp_path: Path) -> tuple[Config, dict[str, list[dict[str, Any]]]]:
    """Six questions of a set of the user's own, and their answers."""
    rows = [{"problem": "<image>what?", "answer": "red", "images": [{"bytes": png("red"), "path": None}]}] * 6
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "mine.parquet")
    config = load_config(None, [f"run.dir={tmp_path}", "run.name=e", "evaluation.resamples=20"]).config
    config.evaluation.benchmarks = {"mine": [str(tmp_path / "mine.parquet")]}
    config.run.path.mkdir()
    answers = [
        answer(0),
        answer(1, 0.0, explanations={"accuracy": "mathruler: '<b>' is not 'red'"}),
        answer(2, visual=0.0),
        answer(3, 0.0, cut_off=True),
        answer(4, 0.0, 0.0, unanswered=True),
        answer(5, None),
    ]
    return config, {"mine": answers}


def test_the_same_answers_give_the_same_files(evaluated):
    config, records = evaluated
    files = []
    for _ in range(2):
        done = report(config, Evaluated("model", 3, {}), records)
        write_report(config.run.path, config, done, records)
        files.append({f.name: f.read_bytes() for f in config.run.path.glob("*.*")})
    assert files[0] == files[1]
    assert set(files[0]) == {"results.json", "results.md", "failures.html"}
    written = json.loads(files[0]["results.json"])
    assert written["results"][0]["score"]["score"] == pytest.approx(2 / 5)
    assert written["settings"]["sampling.max_tokens"] == 2048


def test_failures_are_read_on_a_page_by_kind(evaluated, browser: Browser):
    config, records = evaluated
    file = config.run.path / "failures.html"
    write_failures(file, "model: failures", config, records)
    page = browser.new_page()
    page.goto(f"file://{file}")
    shown = page.locator("li[data-kind]:visible")
    assert shown.count() == 5
    assert sorted(shown.evaluate_all("items => items.map(item => item.dataset.kind)")) == sorted(
        ["wrong", "shortcut", "cut off", "unanswered", "not graded"]
    )
    assert page.locator("img").count() == 5
    assert "mathruler: '<b>' is not 'red'" in shown.first.inner_text()
    page.get_by_label("wrong (1)").uncheck()
    assert shown.count() == 4
    assert "answer 1" not in page.locator("body").inner_text()
    page.close()


def test_answers_outlast_a_killed_attempt_and_those_not_graded_are_asked_again(tmp_path: Path):
    records = Records(tmp_path, "mine")
    for index in range(3):
        records.add(answer(index, None if index == 1 else 1.0))
    with (tmp_path / "answers" / "mine.jsonl").open("a") as file:
        file.write('{"index": 3, "accu')
    again = Records(tmp_path, "mine")
    assert [index in again for index in range(4)] == [True, False, True, False]
    assert [record["index"] for record in again.of([0, 2, 7])] == [0, 2]
    again.add(answer(1, 0.0))
    again.add(answer(0, 0.0))
    assert [record.get("accuracy") for record in Records(tmp_path, "mine").all()] == [1.0, 0.0, 1.0]


def test_benchmarks_are_chosen_by_name_suite_and_file():
    assert list(chosen_benchmarks(["paper"])) == list(SUITES["paper"])
    assert chosen_benchmarks(["mmmu,gsm8k=a.parquet", "gsm8k=b.parquet", "mine=c.parquet"]) == {
        "mmmu": [],
        "gsm8k": ["a.parquet", "b.parquet"],
        "mine": ["c.parquet"],
    }
    assert chosen_benchmarks(["mine=/d/a,b/x=1, c.parquet, mmmu"]) == {"mine": ["/d/a,b/x=1, c.parquet"], "mmmu": []}
    with pytest.raises(ConfigError, match=r"no benchmark 'mmu'; there are mmmu, .*, several at once as paper, text"):
        chosen_benchmarks(["mmu"])
    for empty in ("mine=", "=a.parquet", "mmmu,=a.parquet", "a/b=c.parquet", ""):
        with pytest.raises(ConfigError, match=r"no benchmark '.*and sets of your own as NAME=FILE"):
            chosen_benchmarks([empty])


def test_each_answer_is_graded_by_its_benchmarks_rule_or_by_a_judge():
    chosen = EvaluationConfig(benchmarks={"mathverse": [], "mine": []})
    choice, opened, mine = (
        Item("?", "B", [], "choice", {}),
        Item("?", "1", [], "math_verify", {}),
        Item("?", "1", [], None, {"source": "maths"}),
    )
    own = RewardConfig(graders={"maths": "numeric"})
    graders = with_graders(own, chosen).graders
    assert graders[data_source("mathverse", choice, chosen)] == "choice"
    assert graders[data_source("mathverse", opened, chosen)] == "math_verify"
    assert graders[data_source("mine", mine, chosen)] == "numeric"
    judged = chosen.model_copy(update={"judge_open_answers": True})
    with pytest.raises(ConfigError, match=r"evaluation.judge_open_answers needs a judge: set reward.judge.url"):
        with_graders(own, judged)
    judge = RewardConfig(judge={"url": "http://127.0.0.1:1/v1", "model": "judge"})
    graders = with_graders(judge, judged).graders
    assert graders[data_source("mathverse", choice, judged)] == "choice"
    assert graders[data_source("mathverse", opened, judged)] == "judge"
    with pytest.raises(ConfigError, match="mm_vet needs a judge"):
        with_graders(own, EvaluationConfig(benchmarks={"mm_vet": []}))


def answered(folder: Path) -> Path:
    """An evaluation's folder with answers to two benchmarks."""
    boxed = r"<description>red</description><think>so</think>\boxed{red}"
    records = Records(folder, "mine")
    records.add(answer(0, response=boxed, tags={"level": "easy"}))
    records.add(answer(1, 0.0, 0.0, response='a "quoted"\tline\nand another'))
    records.add({"index": 2, "refused": "row 2: no question"})
    records.add(answer(3, 0.0, 0.0, unanswered=True, response=""))
    Records(folder, "other").add(answer(0))
    return folder


def test_answers_become_lmms_evals_samples(tmp_path: Path):
    folder = answered(tmp_path / "rl-3")
    result = CliRunner().invoke(app, ["answers", str(folder), "--for", "lmms-eval"])
    assert result.exit_code == 0, result.output
    place = folder / "lmms-eval" / "rl-3"
    (samples,) = place.glob("*_samples_mine.jsonl")
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    assert [line["doc_id"] for line in lines] == [0, 1, 3]
    assert lines[0]["target"] == "red"
    assert lines[0]["filtered_resps"] == ["red"]
    assert lines[0]["resps"][0][0].endswith(r"\boxed{red}")
    assert lines[0]["doc"] == {"question": "what?", "answer": "red", "level": "easy"}
    assert (lines[0]["accuracy"], lines[1]["accuracy"]) == (1.0, 0.0)
    assert lines[1]["filtered_resps"] == ['a "quoted"\tline\nand another']
    summary = json.loads(samples.with_name(samples.name.replace("samples_mine.jsonl", "results.json")).read_text())
    assert summary["results"]["mine"]["accuracy,none"] == pytest.approx(1 / 3)
    assert summary["n-samples"]["mine"] == {"original": 3, "effective": 3}
    assert summary["results"].keys() == {"mine", "other"}


def test_answers_become_vlmevalkits_predictions(tmp_path: Path):
    folder = answered(tmp_path / "rl-3")
    write_harness_files(folder, "vlmevalkit", tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "rl-3" / "rl-3_mine.tsv", sep="\t", keep_default_na=False)
    assert list(table["index"]) == [0, 1, 3]
    assert list(table["question"]) == ["what?"] * 3
    assert list(table["answer"]) == ["red"] * 3
    assert list(table["prediction"]) == ["red", 'a "quoted"\tline\nand another', ""]
    assert list(table["level"]) == ["easy", "", ""]


def test_what_cannot_be_written_for_a_harness_is_refused(tmp_path: Path):
    folder = answered(tmp_path / "rl-3")
    write_harness_files(folder, "lmms-eval", tmp_path / "out")
    with pytest.raises(ConfigError, match="is there already; remove it or choose another --output"):
        write_harness_files(folder, "lmms-eval", tmp_path / "out")
    with pytest.raises(ConfigError, match="no harness 'helm'; known: lmms-eval, vlmevalkit"):
        write_harness_files(folder, "helm", tmp_path)
    with pytest.raises(ConfigError, match="has no answers: name the folder that `vision-sr1 eval` wrote"):
        write_harness_files(tmp_path / "none", "vlmevalkit", tmp_path)
