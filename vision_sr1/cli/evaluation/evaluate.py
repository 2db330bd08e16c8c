"""An evaluation from its beginning, or from where an earlier one of the same stopped, to its report."""

import json
import re
from pathlib import Path
from typing import Any

from rich.console import Console

from vision_sr1.cli.checks import check_services
from vision_sr1.cli.evaluation.benchmark_graders import with_graders
from vision_sr1.cli.evaluation.benchmarks import BENCHMARKS, SUITES, questionnaire
from vision_sr1.cli.evaluation.records import ANSWERS, Records
from vision_sr1.cli.evaluation.report import Evaluated, Report, report, write_report
from vision_sr1.cli.export.policy import find_checkpoint
from vision_sr1.cli.launcher.folder import RunFolder
from vision_sr1.cli.launcher.launch import run_evaluation
from vision_sr1.cli.runs import settings_file
from vision_sr1.config import Config, ConfigError
from vision_sr1.models.check import check_model
from vision_sr1.pipeline.fleet import file_digests
from vision_sr1.run_folder.checkpoints import POLICY
from vision_sr1.run_folder.names import ASKED, EVALUATIONS, SCALARS, SETTINGS

OWN_SET = re.compile(r"([^=/]+)=(.+)")  # a benchmark, and a set of it


def chosen_benchmarks(names: list[str]) -> dict[str, list[str]]:
    """Benchmarks with their sets, by what was asked for: `NAME`, `SUITE`, or `NAME=SET`; commas between several.

    Raises:
        ConfigError: no benchmark has such a name, and it names no set.
    """
    chosen: dict[str, list[str]] = {}
    for name in [part for given in names for part in _parts(given)]:
        if own := OWN_SET.fullmatch(name):
            chosen.setdefault(own[1], []).append(own[2])
        elif name in SUITES:
            chosen |= {member: chosen.get(member, []) for member in SUITES[name]}
        elif name in BENCHMARKS:
            chosen.setdefault(name, [])
        else:
            raise ConfigError(
                f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}, several at once as "
                f"{', '.join(SUITES)}, and sets of your own as NAME=FILE"
            )
    return chosen


def _parts(given: str) -> list[str]:
    """What commas divide. One in a set's path does not: what follows it is none of what may be asked for."""
    parts: list[str] = []
    for part in given.split(","):
        is_asked_for = part.strip() in (*SUITES, *BENCHMARKS) or OWN_SET.fullmatch(part.strip())
        if parts and OWN_SET.fullmatch(parts[-1]) and not is_asked_for:
            parts[-1] += f",{part}"
        else:
            parts.append(part.strip())
    return parts


def policy_of(model: str, version: str) -> tuple[str, int, Path, Path | None]:
    """What is to be evaluated: the weights' folder or hub name, their version, the evaluation's folder, and the
    configuration that goes with them.

    Args:
        model: a run's folder, an exported model, any folder in Hugging Face format, or a hub name.
        version: of a run: a checkpoint's number, `latest` or `best`.

    Raises:
        ConfigError: the run has no such version.
    """
    from vision_sr1.cli.ask import settings_of

    run = Path(model)
    if (run / SETTINGS).is_file():
        checkpoint = find_checkpoint(run, version)
        number = int(checkpoint.name)
        name = f"{run.absolute().name}-{number}"  # on a Redis of several runs, one of its own
        return str(checkpoint / POLICY), number, run / EVALUATIONS / name, run / SETTINGS
    if run.is_dir() and not (run / "config.json").is_file():
        settings_file(run)  # is not there: says what is
    return model, 0, Path("runs") / f"evaluation-{run.name}", settings_of(model)


def evaluate(config: Config, model: str, version: int, console: Console, *, fresh: bool) -> Report:
    """Asks what has no answer yet, and writes the report to the run's folder.

    Args:
        config: names the weights and the benchmarks.
        model: what the report calls them.
        version: of the policy.
        fresh: move earlier answers aside.

    Raises:
        ConfigError: no benchmark is chosen, another process holds the folder, or it has answers of another model or at
            other settings; or see `check_services`.
        DataError: a benchmark cannot be read.
        StreamsUnavailableError, RedisStartError: there is no Redis.
        StageFailedError, InterruptedRunError: from the services.
    """
    if not config.evaluation.benchmarks:
        raise ConfigError(f"no benchmark is chosen: --suite takes {', '.join((*SUITES, *BENCHMARKS))}, or NAME=FILE")
    with RunFolder(config.run.path, console) as folder:
        return _evaluate(config, model, version, console, folder, fresh=fresh)


def _evaluate(
    config: Config, model: str, version: int, console: Console, run_folder: RunFolder, *, fresh: bool
) -> Report:
    folder, weights = config.run.path, Path(config.model.path)
    check_model(config.model)
    evaluated = Evaluated(model, version, file_digests(weights) if weights.is_dir() else {})
    settings = _settings(config, evaluated)  # with the user's graders; ours follow from the benchmarks
    config = config.model_copy(update={"reward": with_graders(config.reward, config.evaluation)})
    questions = {name: questionnaire(name, config) for name in config.evaluation.benchmarks}
    check_services(config, learners=0, actors=config.actors.count)
    if fresh and (folder / ASKED).is_file():
        run_folder.move_aside()
    _hold_to_settings(folder, settings, {name: asked.sets for name, asked in questions.items()})
    numbers = {name: asked.numbers for name, asked in questions.items()}
    known = {name: Records(folder, name) for name in questions}
    if any(number not in known[name] for name in numbers for number in numbers[name]):
        (folder / SCALARS).unlink(missing_ok=True)
        run_evaluation(config, version, console, "evaluation", sum(map(len, numbers.values())))
    records = {name: Records(folder, name).of(numbers[name]) for name in questions}
    done = report(config, evaluated, records)
    write_report(folder, config, done, records)
    return done


def _settings(config: Config, evaluated: Evaluated) -> dict[str, Any]:
    """All that an answer and its grade depend on."""
    reward = config.reward.model_dump(
        mode="json", exclude={"host", "port", "processes", "rollouts_in_flight", "drain_s", "api", "traces"}
    )
    return {
        "model": {"version": evaluated.version, "weights": evaluated.weights or config.model.path},  # wherever they are
        "image and length": config.model.model_dump(mode="json", exclude={"path"}),
        "data": config.data.model_dump(mode="json", exclude={"train", "evaluation", "sft", "sft_evaluation"}),
        "sampling": config.sampling.model_dump(mode="json"),
        "reward": reward,
        "judge_open_answers": config.evaluation.judge_open_answers,
        "seed": config.run.seed,
    }


def _hold_to_settings(folder: Path, settings: dict[str, Any], sets: dict[str, list[list[str | int]]]) -> None:
    """Answers in one folder are all of one model at one set of settings, those to one benchmark of the same sets."""
    file = folder / ASKED
    if file.is_file() and (folder / ANSWERS).is_dir():
        before = json.loads(file.read_text(encoding="utf-8"))
        differing = [name for name in settings if before.get(name) != settings[name]]
        differing += [f"set of {name}" for name in sets if before["sets"].get(name, sets[name]) != sets[name]]
        sets = before["sets"] | sets
        if differing:
            raise ConfigError(
                f"{folder} has answers that were given at another {' and '.join(differing)}: --fresh moves them aside, "
                "--output FOLDER leaves them alone"
            )
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(settings | {"sets": sets}, indent=1) + "\n", encoding="utf-8")
