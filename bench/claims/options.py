"""What both commands can be told: where their runs and results go, and how large they are."""

import argparse
from dataclasses import replace
from pathlib import Path

from bench.claims.report import REPORT
from bench.claims.runs import Study
from vision_sr1.cli.demo.demo import HELD_OUT_ROWS


def study_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Options of `python -m NAME`."""
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=description)
    parser.add_argument(
        "--root", type=Path, default=Path("runs/claims"), help="folder of the runs; default: %(default)s"
    )
    parser.add_argument(
        "--report", type=Path, default=REPORT, help="file with markers for the tables; default: %(default)s"
    )
    parser.add_argument("--batches", type=int, help="of every RL run")
    parser.add_argument("--sft-steps", type=int, help="of the base model and of every cold start; data are as many")
    parser.add_argument("--held-out", type=int, default=HELD_OUT_ROWS, help="images a split; default: %(default)s")
    return parser


def resized(study: Study, options: argparse.Namespace) -> Study:
    """A study as the options want it."""
    return replace(
        study,
        root=options.root / study.root,
        batches=options.batches or study.batches,
        sft_steps=options.sft_steps,
        held_out=options.held_out,
    )
