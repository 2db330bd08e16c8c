"""Answers of an evaluation in the files of other harnesses: lmms-eval's samples and VLMEvalKit's predictions."""

import csv
import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vision_sr1.cli.evaluation.records import ANSWERS
from vision_sr1.config import ConfigError
from vision_sr1.pipeline.answer_record import MEANS, Record, means
from vision_sr1.prompting.prompt_template import IMAGE_MARKER
from vision_sr1.prompting.response import parse_response
from vision_sr1.run_folder import jsonl
from vision_sr1.run_folder.atomic import written_whole

LMMS_EVAL, VLMEVALKIT = "lmms-eval", "vlmevalkit"
HARNESSES = (LMMS_EVAL, VLMEVALKIT)


def write_harness_files(evaluation: Path, harness: str, output: Path) -> list[Path]:
    """Writes a folder MODEL in `output`, named after the evaluation's folder, with a file or more for each benchmark.

    Rows that could not be used are left out; a question that no actor could answer has an empty response.

    Returns:
        The files. lmms-eval: `DATE_results.json` and `DATE_samples_BENCHMARK.jsonl`; VLMEvalKit:
        `MODEL_BENCHMARK.tsv`.

    Raises:
        ConfigError: no such harness, no answers in the folder, or there is something at the place of the folder.
    """
    if harness not in HARNESSES:
        raise ConfigError(f"no harness {harness!r}; known: {', '.join(HARNESSES)}")
    answers = {file.stem: _answers(file) for file in sorted((evaluation / ANSWERS).glob("*.jsonl"))}
    if not answers:
        raise ConfigError(f"{evaluation} has no answers: name the folder that `vision-sr1 eval` wrote")
    model = evaluation.absolute().name
    folder = output / model
    if folder.exists():
        raise ConfigError(f"{folder} is there already; remove it or choose another --output")
    output.mkdir(parents=True, exist_ok=True)
    with written_whole(folder) as place:
        place.mkdir()
        if harness == LMMS_EVAL:
            _write_samples(place, model, answers)
        else:
            for name, records in answers.items():
                _write_predictions(place / f"{model}_{name}.tsv", records)
    return sorted(folder.iterdir())


def _answers(file: Path) -> list[Record]:
    """By number, the last of each; the file may be growing."""
    latest = {record["index"]: record for record in jsonl.read(file) if "refused" not in record}
    return [latest[index] for index in sorted(latest)]


def _write_samples(folder: Path, model: str, answers: Mapping[str, list[Record]]) -> None:
    """As lmms-eval's `--log_samples` does."""
    date = f"{datetime.datetime.now():%Y%m%d_%H%M%S}"
    graded = {name: [record for record in records if "accuracy" in record] for name, records in answers.items()}
    results = {
        "results": {
            name: {"alias": name, **{f"{metric},none": value for metric, value in means(records).items()}}
            for name, records in graded.items()
        },
        "configs": {name: {"task": name} for name in answers},
        "n-samples": {
            name: {"original": len(found), "effective": len(graded[name])} for name, found in answers.items()
        },
        "model_name": model,
        "date": date,
    }
    (folder / f"{date}_results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    for name, records in answers.items():
        jsonl.write(folder / f"{date}_samples_{name}.jsonl", map(_sample, records))


def _sample(record: Record) -> dict[str, Any]:
    question, response = _question(record), record.get("response", "")
    return {
        "doc_id": record["index"],
        "doc": {"question": question, "answer": record["reference"], **record.get("tags", {})},
        "target": record["reference"],
        "arguments": [question],
        "input": question,
        "resps": [[response]],
        "filtered_resps": [_answer(response)],
        **{name: record[name] for name in MEANS if record.get(name) is not None},
    }


def _write_predictions(file: Path, records: list[Record]) -> None:
    """A table as VLMEvalKit's `load` reads it; `prediction` is the answer, and the response where it has none."""
    tags = sorted({tag for record in records for tag in record.get("tags", {})})
    with file.open("w", encoding="utf-8", newline="") as opened:
        table = csv.writer(opened, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
        table.writerow(["index", "question", "answer", "prediction", "response", *tags])
        for record in records:
            response = record.get("response", "")
            row = [record["index"], _question(record), record["reference"], _answer(response), response]
            table.writerow([*row, *(record.get("tags", {}).get(tag, "") for tag in tags)])


def _question(record: Record) -> str:
    question: str = record["question"]
    return question.replace(IMAGE_MARKER, "").strip()


def _answer(response: str) -> str:
    answer = parse_response(response.encode()).answer
    return response if answer is None else answer
