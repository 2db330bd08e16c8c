"""This system and TRL's GRPOTrainer on the same work: seconds a batch, rollouts a second, peak memory.

`python -m bench.peers [WORK ...] [--batches N] [--trl-batches N] [--dtype D] [--self-reward PRESET ...] [--set
KEY=VALUE ...] [--folder F] [--quick]`: for each row the same policy, questions, images, batch, optimizer steps and
objective of the answer alone, one after the other on the same cores; then this system with self-reward, synchronous and
with `max_staleness: 1`. Rows: the demo's policy; 32 million parameters with images of 256 tokens; the same with images
of 1,024 tokens and answers of 256. TRL generates with transformers in one process with two threads; this system has two
learner ranks and an actor with a thread each, and in the first row one rank where it learns while the actor answers. A
first batch of each warms up and does not count. Values are medians, with the smallest and the largest.
"""

import argparse
import json
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median

from bench.claims.runs import EXAMPLES, components
from bench.peers import ours, trl
from bench.peers.work import STAGE_TIMEOUT_S, WORKS, Run, Work, make
from vision_sr1.config import ConfigError, load_config
from vision_sr1.config.loading import PRESETS

SELF_REWARDS = sorted(
    p.stem for p in PRESETS.glob("*.yaml") if any("visual" in c["reward"] for c in components(p.stem))
)


def variants(work: Work, presets: list[str], further: list[str]) -> dict[str, list[str]]:
    """Settings of this system, by name: with the answer's reward alone, then with each self-reward."""
    one_behind = ["learner.max_staleness=1", f"learner.processes={work.beside}"]
    objectives = {"answer alone": ours.ANSWER_ALONE} | {name: [f"learner.preset={name}"] for name in presets}
    return {
        f"{name}{suffix}": [*objective, *more, *further]
        for name, objective in objectives.items()
        for suffix, more in (("", []), (", one behind", one_behind))
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("works", nargs="*", metavar="WORK", choices=[*WORKS, []], help=", ".join(WORKS))
    parser.add_argument("--batches", type=int, default=5, help="of each run of this system; default: %(default)s")
    parser.add_argument("--trl-batches", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="default: %(default)s")
    parser.add_argument(
        "--self-reward",
        nargs="+",
        metavar="PRESET",
        choices=SELF_REWARDS,
        default=["vision_sr1"],
        help=f"objectives, of {', '.join(SELF_REWARDS)}; default: vision_sr1",
    )
    parser.add_argument(
        "--set", nargs="+", metavar="KEY=VALUE", default=[], help="further settings of every run of this system"
    )
    parser.add_argument("--folder", type=Path, help="keeps policies and runs here; policies found here are used again")
    parser.add_argument("--quick", action="store_true", help="self-reward only, of one prompt and two answers")
    arguments = parser.parse_args()
    try:
        for settings in variants(WORKS["demo"], arguments.self_reward, arguments.set).values():
            load_config(EXAMPLES / "rl.yaml", settings)
    except ConfigError as error:
        parser.error(str(error))
    measured, ratios = arguments.self_reward[0], {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.works or WORKS:
            folder = (arguments.folder or Path(temporary)).absolute() / name
            folder.mkdir(parents=True, exist_ok=True)
            work = replace(WORKS[name], dtype=arguments.dtype)
            work = smallest(work) if arguments.quick else work
            chosen = variants(work, arguments.self_reward, arguments.set)
            chosen = {measured: chosen[measured]} if arguments.quick else chosen
            found = measure(work, chosen, folder, arguments.batches, arguments.trl_batches)
            ratios[name] = show(work, found)
    first = next(iter(ratios.values()))
    result = {
        "name": "peers_rollouts_per_second",
        "value": first[measured],
        "unit": "rollouts/s",
        "baseline": first["TRL"],
        "ratio": round(first[measured] / first["TRL"], 2),
        "works": ratios,
    }
    print(json.dumps(result))


def smallest(work: Work) -> Work:
    """Of the same kind."""
    return replace(work, prompts=1, group_size=2, steps=1, cold_start=1)


def measure(work: Work, chosen: dict[str, list[str]], folder: Path, batches: int, trl_batches: int) -> dict[str, Run]:
    """TRL and variants of this system, by name."""
    rows = work.prompts * (2 + max(batches, trl_batches))
    model, questions = make(work, folder, rows)
    found = {"TRL": _trl(work, model, questions, trl_batches)}
    for number, (variant, settings) in enumerate(chosen.items()):
        found[variant] = ours.train(work, model, questions, folder, batches, f"run{number}", settings)
    return found


def _trl(work: Work, model: Path, questions: Path, batches: int) -> Run:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(trl.train, work, model, questions, batches).result(STAGE_TIMEOUT_S)


def show(work: Work, found: dict[str, Run]) -> dict[str, float]:
    """Prints a row's table; returns rollouts a second by name."""
    print(f"\n{work.name}: {work}")
    print(f"{'':26} {'s a batch':>10} {'least-most':>14} {'rollouts/s':>11} {'learning':>9} {'MB':>7} {'learner':>8}")
    rates = {}
    for name, measured in found.items():
        batch = median(measured.seconds)
        rates[name] = round(work.rollouts / batch, 3)
        spread = f"{min(measured.seconds):.2f}-{max(measured.seconds):.2f}"
        learning = "" if measured.learning is None else f"{median(measured.learning):.2f}"
        learner = "" if measured.learner_mb is None else f"{measured.learner_mb:.0f}"
        memory = f"{measured.peak_mb:7.0f} {learner:>8}"
        print(f"{name:26} {batch:10.2f} {spread:>14} {rates[name]:11.2f} {learning:>9} {memory}")
    return rates


if __name__ == "__main__":
    main()
