"""`python -m bench.claims [--root FOLDER]`: trains every objective from the same cold starts and writes docs/claims.md.

Stopped, it goes on where it was when started again.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from bench.claims.judges import Reader, evaluated_answers, judge
from bench.claims.report import REPORT, Verdicts, write_results
from bench.claims.runs import CLAIMS, COLD_START, OBJECTIVES, SEEDS
from bench.claims.timing import say
from vision_sr1.demo.run import HELD_OUT_ROWS

SPLITS = ("normal", "counter_prior")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.claims", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("runs/claims"), help="where the runs go")
    arguments = parser.parse_args()
    study = replace(CLAIMS, root=arguments.root)
    started = time.monotonic()
    for seed in SEEDS:
        study.make_cold_start(seed)
        say(started, f"seed {seed}: cold start")
        for objective, overrides in OBJECTIVES.items():
            study.train(seed, objective, overrides)
            say(started, f"seed {seed}: {objective}")

    verdicts: Verdicts = {name: {split: [] for split in SPLITS} for name in (COLD_START, *OBJECTIVES)}
    for seed in SEEDS:
        base = Reader(study.model(seed, "base"))
        for name in verdicts:
            run, version = (name, study.batches) if name != COLD_START else (next(iter(OBJECTIVES)), 0)
            policy = Reader(study.policy(seed, name))
            for split in SPLITS:
                answers = evaluated_answers(study.run(seed, run) / "evaluation" / f"v{version}-{split}.jsonl")
                verdicts[name][split].append(judge(answers, policy, base))
    curves = {objective: [study.scalars(seed, objective) for seed in SEEDS] for objective in OBJECTIVES}
    facts = (
        f"{len(SEEDS)} seeds, {study.batches} batches of 32 prompts with 8 answers each, greedy evaluation on "
        f"{HELD_OUT_ROWS} held-out images a split; mean ± deviation over the seeds."
    )
    write_results(verdicts, curves, facts)
    say(started, f"wrote {REPORT}")
    shortcut = {
        v: fmean(x.shortcut["rule"] for s in SPLITS for x in verdicts[v][s]) for v in ("see_think", "vision_sr1")
    }
    result = {
        "name": "claims_shortcut_rate_by_rule",
        "value": round(shortcut["vision_sr1"], 4),
        "unit": "share",
        "baseline": round(shortcut["see_think"], 4),
        "ratio": round(shortcut["vision_sr1"] / shortcut["see_think"], 3) if shortcut["see_think"] else None,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
