"""Extensions of the method, each on its own, added to docs/claims.md.

`python -m bench.claims.extensions [--root FOLDER] [--report FILE] [--seeds N ...] [--runs NAME ...] [--batches N]
[--sft-steps N] [--held-out N]`: every run starts from the cold start that answers from the image, and shares data and
models with the condition `from_image` of `python -m bench.claims.conditions`. Stopped, it goes on where it was. The
result compares language shortcut rates of `vision_sr1` and `see_think`, which measure the dependency of tokens on the
image too.
"""

import time
from dataclasses import replace
from statistics import mean, median

from bench.claims.conditions import CONDITIONS, LAST, Condition, train_runs, verdicts_of
from bench.claims.options import resized, study_parser
from bench.claims.report import COMPARED, PANELS, plot_curves, shortcut_result, table, write_between
from bench.claims.runs import OBJECTIVES, SEEDS
from bench.claims.timing import say

# An extension is a run: its name, and how its configuration differs from examples/shapes/rl.yaml.
EXTENSIONS: dict[str, list[str]] = {
    "vision_sr1 with 3 questions": ["learner.preset=vision_sr1", "reward.requery.questions=3"],
    "observer_solver": ["learner.preset=observer_solver"],
    "vision_sr1 with token weights": ["learner.preset=vision_sr1", "learner.dependency.token_share=0.4"],
    "vision_sr1 with KL bonus": ["learner.preset=vision_sr1", "learner.dependency.kl_bonus=0.02"],
}
PLOT = "extensions.png"  # beside the report
DEPENDENCY = "dependency of the description on the image, nats a token"
BASELINES = {name: [*OBJECTIVES[name], "learner.dependency.measure=true"] for name in COMPARED}


def main() -> None:
    parser = study_parser("bench.claims.extensions", __doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="default: %(default)s")
    parser.add_argument("--runs", nargs="*", choices=EXTENSIONS, default=list(EXTENSIONS), help="default: all")
    options = parser.parse_args()
    study = resized(replace(CONDITIONS["from_image"].study, name="extensions"), options)
    chosen = BASELINES | {name: EXTENSIONS[name] for name in options.runs}
    condition = Condition(CONDITIONS["from_image"].text, study, chosen, tuple(options.seeds))
    started = time.monotonic()
    train_runs(study, condition, started)
    verdicts = verdicts_of(study, condition)
    scalars = {name: [study.scalars(seed, name) for seed in condition.seeds] for name in condition.runs}
    more = {
        "seconds a batch": {
            name: [median(_values(run, "seconds/batch")) for run in runs] for name, runs in scalars.items()
        }
    }
    for part in ("description", "think", "answer"):
        logged = {name: [_values(run, f"dependency/{part}")[-LAST:] for run in runs] for name, runs in scalars.items()}
        more[f"dependency: {part}"] = {name: list(map(mean, runs)) for name, runs in logged.items() if all(runs)}
    seeds = ", ".join(map(str, condition.seeds))
    text = (
        f"{condition.text}. {study.batches} batches of 32 prompts with 8 answers each; shares of the answers of the "
        f"last {LAST} batches, sampled at temperature 1, of the cold start those of the first batch. Mean ± deviation "
        f"over the seeds ({seeds}). The time of a batch is the median, that of `vision_sr1` and `see_think` with "
        f"`learner.dependency.measure`; dependency on the image is that of the last {LAST} batches.\n\n"
        f"{table(verdicts, more)}\n![curves of the extensions]({PLOT})\n"
    )
    plot_curves(options.report.with_name(PLOT), scalars, PANELS | {"dependency/description": DEPENDENCY})
    write_between(options.report, "extensions", text)
    print(text)
    say(started, f"wrote {options.report}")
    print(shortcut_result("claims_extensions_shortcut_rate_by_rule", {name: verdicts[name] for name in COMPARED}))


def _values(run: list[dict[str, float]], scalar: str) -> list[float]:
    return [line[scalar] for line in run if scalar in line]


if __name__ == "__main__":
    main()
