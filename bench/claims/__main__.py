"""The paper's central claims: trains every objective from the same cold starts and writes docs/claims.md.

`python -m bench.claims [--root FOLDER] [--report FILE] [--seeds N ...] [--objectives NAME ...] [--batches N]
[--sft-steps N] [--held-out N]`. Stopped, it goes on where it was when started again; a study of other sizes needs
another root. The result compares language shortcut rates of `vision_sr1` and `see_think`, which are trained in any
case.
"""

import time

from bench.claims.judges import Reader, evaluated_answers, judge
from bench.claims.options import resized, study_parser
from bench.claims.report import COMPARED, Verdicts, shortcut_result, write_results
from bench.claims.runs import CLAIMS, COLD_START, OBJECTIVES, SEEDS
from bench.claims.timing import say

SPLITS = ("normal", "counter_prior")


def main() -> None:
    parser = study_parser("bench.claims", __doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="default: %(default)s")
    parser.add_argument("--objectives", nargs="*", choices=OBJECTIVES, default=list(OBJECTIVES), help="default: all")
    options = parser.parse_args()
    study, seeds = resized(CLAIMS, options), options.seeds
    objectives = {name: changes for name, changes in OBJECTIVES.items() if name in (*options.objectives, *COMPARED)}
    started = time.monotonic()
    for seed in seeds:
        study.make_cold_start(seed)
        say(started, f"seed {seed}: cold start")
        for objective, overrides in objectives.items():
            study.train(seed, objective, overrides)
            say(started, f"seed {seed}: {objective}")

    images = set[int]()  # of the splits that were answered
    verdicts: Verdicts = {name: {split: [] for split in SPLITS} for name in (COLD_START, *objectives)}
    for seed in seeds:
        base = Reader(study.model(seed, "base"))
        for name in verdicts:
            run, version = (name, study.batches) if name != COLD_START else (next(iter(objectives)), 0)
            policy = Reader(study.policy(seed, name))
            for split in SPLITS:
                answers = evaluated_answers(study.run(seed, run) / "evaluation" / f"v{version}-{split}.jsonl")
                images.add(len(answers))
                verdicts[name][split].append(judge(answers, policy, base))
    curves = {objective: [study.scalars(seed, objective) for seed in seeds] for objective in objectives}
    facts = (
        f"{len(seeds)} seeds, {study.batches} batches of 32 prompts with 8 answers each, greedy evaluation on "
        f"{' or '.join(map(str, sorted(images)))} held-out images a split; mean ± deviation over the seeds."
    )
    print(write_results(options.report, verdicts, curves, facts))
    say(started, f"wrote {options.report}")
    of_both_splits = {name: [verdict for split in SPLITS for verdict in verdicts[name][split]] for name in COMPARED}
    print(shortcut_result("claims_shortcut_rate_by_rule", of_both_splits))


if __name__ == "__main__":
    main()
