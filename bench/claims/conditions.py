"""What the claims depend on, added to docs/claims.md.

`python -m bench.claims.conditions [--root FOLDER] [--report FILE] [--conditions NAME ...] [--batches N]
[--sft-steps N] [--held-out N]`: the cold start, its strength, the questions and the rewards' weights are changed one at
a time. Nothing here looks at the held-out splits: figures are over the samples that the runs learned from, each drawn
before its question was first learned from. It shares data, models and runs with `python -m bench.claims` and, stopped,
goes on where it was. The result compares language shortcut rates of `vision_sr1` and `see_think`, over the conditions
that train both.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.claims.judges import Reader, Verdict, judge, training_answers
from bench.claims.options import resized, study_parser
from bench.claims.report import COMPARED, shortcut_result, table, write_between
from bench.claims.runs import CLAIMS, COLD_START, OBJECTIVES, SEEDS, Study, as_override, components
from bench.claims.timing import say

BATCHES = 16
LAST = 4  # batches whose answers are counted


def _sum_with(visual: float) -> list[str]:
    changed = components("vision_sr1_sum")
    changed[0]["reward"]["visual"] = visual
    return as_override(changed)


@dataclass(frozen=True)
class Condition:
    """A way to start, and what is trained from there.

    Attributes:
        text: how the report introduces it.
        study: its runs; the root is within the command's.
        runs: overrides by name.
        seeds: one run each.
    """

    text: str
    study: Study
    runs: Mapping[str, list[str]]
    seeds: tuple[int, ...] = (0,)

    @property
    def compares(self) -> bool:
        """Whether it trains both objectives that the result compares."""
        return self.runs.keys() >= {*COMPARED}


def _study(name: str, root: str = "", **changed: Any) -> Study:
    return Study(Path(root), BATCHES, name=name, evaluated=False, **changed)


_PAIR = {name: OBJECTIVES[name] for name in COMPARED}
_FOUR = {name: OBJECTIVES[name] for name in ("see_think", "vision_sr1_sum", "vision_sr1_eq7", "vision_sr1")}
CONDITIONS = {
    "from_description": Condition("The cold start answers from its description, as above", CLAIMS, _FOUR, SEEDS),
    "from_image": Condition(
        "The cold start answers from the image, whatever it has described",
        _study("from_image", cold_start="cold_start_shortcut"),
        _FOUR,
        SEEDS,
    ),
    "weights": Condition(
        "… the same, with other weights of the self-reward in the sum",
        _study("from_image", cold_start="cold_start_shortcut"),
        {f"vision_sr1_sum with visual {weight}": _sum_with(weight) for weight in (0.1, 3.0)},
    ),
    "weak": Condition("A cold start of a third of the steps", _study("weak", cold_start_steps=40), _PAIR),
    "comparisons": Condition(
        "Half of the questions compare two objects' colours",
        _study("rl", "comparisons", kinds={"color": 3.0, "shape": 2.0, "count": 1.0, "comparison": 6.0}),
        _PAIR,
    ),
}


def train_runs(study: Study, condition: Condition, started: float) -> None:
    """All of a condition's runs that are not finished yet; says when each is, since `started`."""
    for seed in condition.seeds:
        study.make_cold_start(seed)
        for name, overrides in condition.runs.items():
            study.train(seed, name, overrides)
            say(started, f"{condition.text}, seed {seed}: {name}")


def main() -> None:
    parser = study_parser("bench.claims.conditions", __doc__)
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS), help="default: all")
    options = parser.parse_args()
    conditions = [CONDITIONS[name] for name in options.conditions]
    if not any(condition.compares for condition in conditions):
        parser.error(f"none of these conditions trains both {' and '.join(COMPARED)}")
    started = time.monotonic()
    tables, compared = [], {name: list[Verdict]() for name in COMPARED}
    for condition in conditions:
        study = resized(condition.study, options)
        train_runs(study, condition, started)
        verdicts = verdicts_of(study, condition)
        tables += [f"### {condition.text}\n", table(verdicts)]
        if condition.compares:
            for name in COMPARED:
                compared[name] += verdicts[name]
    facts = (
        f"{resized(_study(''), options).batches} batches of 32 prompts with 8 answers each "
        f"({resized(CLAIMS, options).batches} in the first table). Shares of the "
        f"answers of the last {LAST} batches, sampled at temperature 1; of the cold start those of the first batch. "
        "Mean ± deviation over seeds 0 to 2 or, without a deviation, seed 0.\n"
    )
    text = "\n".join([facts, *tables])
    write_between(options.report, "conditions", text)
    print(text)
    say(started, f"wrote {options.report}")
    print(shortcut_result("claims_conditions_shortcut_rate_by_rule", compared))


def verdicts_of(study: Study, condition: Condition) -> dict[str, list[Verdict]]:
    """Of the cold start and of every run, one per seed."""
    verdicts: dict[str, list[Verdict]] = {name: [] for name in (COLD_START, *condition.runs)}
    for seed in condition.seeds:
        base = Reader(study.model(seed, "base"))
        for name in verdicts:
            if name == COLD_START:
                run, batches = next(iter(condition.runs)), range(1)
            else:
                run, batches = name, range(max(0, study.batches - LAST), study.batches)
            answers = training_answers(study.run(seed, run), study.data(seed), batches)
            verdicts[name].append(judge(answers, Reader(study.policy(seed, name)), base))
    return verdicts


if __name__ == "__main__":
    main()
