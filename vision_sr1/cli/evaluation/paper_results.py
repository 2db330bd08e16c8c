"""What the paper reports: Table 2 of arXiv 2508.19652 v2, in percent."""

from dataclasses import dataclass

from vision_sr1.cli.evaluation.benchmarks import SUITES


@dataclass(frozen=True)
class Published:
    """One model of the paper.

    Attributes:
        scores: by benchmark.
        baseline: average of Vision-R1, trained on the same data.
        shortcut: language shortcut rate.
    """

    scores: dict[str, float]
    average: float
    baseline: float
    shortcut: float


def _published(scores: tuple[float, ...], average: float, baseline: float, shortcut: float) -> Published:
    return Published(dict(zip(SUITES["paper"], scores, strict=True)), average, baseline, shortcut)


PAPER = {
    "Vision-SR1 3B": _published((40.8, 49.6, 66.1, 41.9, 45.8, 29.3, 68.3), 48.8, 47.1, 9.4),
    "Vision-SR1 7B": _published((40.7, 52.2, 69.2, 43.5, 54.5, 36.2, 68.9), 52.2, 50.7, 9.8),
}
