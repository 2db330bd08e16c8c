"""Extensions of the method, each on its own, added to docs/claims.md.

`python -m bench.claims.extensions [--root FOLDER] [--report FILE] [--seeds N ...] [--runs NAME ...] [--batches N]
[--sft-steps N]`: every run starts from the cold start that answers from the image, and shares data, models and the
baselines with the condition `from_image` of `python -m bench.claims.conditions`. Stopped, it goes on where it was. The
result compares language shortcut rates of `vision_sr1` and `see_think`.
"""

import time
from statistics import median

from bench.claims.conditions import CONDITIONS, LAST, Condition, verdicts_of
from bench.claims.options import resized, study_parser
from bench.claims.report import COMPARED, shortcut_result, table, write_between
from bench.claims.runs import OBJECTIVES, SEEDS, Study
from bench.claims.timing import say

# An extension is a run: its name, and how its configuration differs from examples/shapes/rl.yaml.
EXTENSIONS: dict[str, list[str]] = {
    "vision_sr1 with 3 questions": ["learner.preset=vision_sr1", "reward.requery.questions=3"],
    "observer_solver": ["learner.preset=observer_solver"],
}
BASELINES = {name: OBJECTIVES[name] for name in COMPARED}


def main() -> None:
    parser = study_parser("bench.claims.extensions", __doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="default: %(default)s")
    parser.add_argument("--runs", nargs="*", choices=EXTENSIONS, default=list(EXTENSIONS), help="default: all")
    options = parser.parse_args()
    study = resized(CONDITIONS["from_image"].study, options)
    runs = BASELINES | {name: EXTENSIONS[name] for name in options.runs}
    condition = Condition(CONDITIONS["from_image"].text, study, runs, tuple(options.seeds))
    started = time.monotonic()
    for seed in condition.seeds:
        study.make_cold_start(seed)
        for name, overrides in condition.runs.items():
            study.train(seed, name, overrides)
            say(started, f"seed {seed}: {name}")
    verdicts = verdicts_of(study, condition)
    seconds = {name: [_batch_seconds(study, seed, name) for seed in condition.seeds] for name in condition.runs}
    seeds = ", ".join(map(str, condition.seeds))
    text = (
        f"{condition.text}. {study.batches} batches of 32 prompts with 8 answers each; shares of the answers of the "
        f"last {LAST} batches, sampled at temperature 1, of the cold start those of the first batch. Mean ± deviation "
        f"over the seeds ({seeds}). The last column is the median time of a batch.\n\n"
        f"{table(verdicts, {'seconds a batch': seconds})}"
    )
    write_between(options.report, "extensions", text)
    print(text)
    say(started, f"wrote {options.report}")
    print(shortcut_result("claims_extensions_shortcut_rate_by_rule", {name: verdicts[name] for name in COMPARED}))


def _batch_seconds(study: Study, seed: int, run: str) -> float:
    return median(line["seconds/batch"] for line in study.scalars(seed, run) if "seconds/batch" in line)


if __name__ == "__main__":
    main()
