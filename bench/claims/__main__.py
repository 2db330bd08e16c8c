"""`python -m bench.claims [--root FOLDER]`: trains every objective from the same cold starts and writes docs/claims.md.

Stopped, it goes on where it was when started again.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import fmean

from bench.claims.judges import Reader, judge
from bench.claims.report import Verdicts, write_report
from bench.claims.runs import VARIANTS, Study
from vision_sr1.demo.run import HELD_OUT_ROWS

SEEDS = (0, 1, 2)
BATCHES = 32
SPLITS = ("normal", "counter_prior")
REPORT = Path(__file__).parents[2] / "docs" / "claims.md"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.claims", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("runs/claims"), help="where the runs go")
    arguments = parser.parse_args()
    study = Study(arguments.root, BATCHES)
    started = time.monotonic()
    for seed in SEEDS:
        study.make_cold_start(seed)
        _say(started, f"seed {seed}: cold start")
        for variant in VARIANTS:
            study.train(seed, variant)
            _say(started, f"seed {seed}: {variant}")

    verdicts: Verdicts = {variant: {split: [] for split in SPLITS} for variant in ("cold start", *VARIANTS)}
    for seed in SEEDS:
        reader = Reader(study.model(seed, "base"))
        for split in SPLITS:
            first = study.run(seed, next(iter(VARIANTS))) / "evaluation" / f"v0-{split}.jsonl"
            verdicts["cold start"][split].append(judge(first, reader))
            for variant in VARIANTS:
                file = study.run(seed, variant) / "evaluation" / f"v{BATCHES}-{split}.jsonl"
                verdicts[variant][split].append(judge(file, reader))
    curves = {variant: [study.scalars(seed, variant) for seed in SEEDS] for variant in VARIANTS}
    facts = (
        f"{len(SEEDS)} seeds, {BATCHES} batches of 32 prompts with 8 answers each, greedy evaluation on "
        f"{HELD_OUT_ROWS} held-out images a split; mean ± deviation over the seeds."
    )
    write_report(REPORT, verdicts, curves, facts)
    _say(started, f"wrote {REPORT}")
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


def _say(started: float, what: str) -> None:
    print(f"{(time.monotonic() - started) / 60:6.1f} min  {what}", flush=True)


if __name__ == "__main__":
    main()
