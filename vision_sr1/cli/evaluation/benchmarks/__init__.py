"""The benchmarks that `vision-sr1 eval` knows, by name, and the suites of them."""

from collections.abc import Sequence

from vision_sr1.cli.evaluation.benchmarks.benchmark import Benchmark, Questionnaire
from vision_sr1.cli.evaluation.benchmarks.knowledge import KNOWLEDGE
from vision_sr1.cli.evaluation.benchmarks.mathematics import MATHEMATICS
from vision_sr1.cli.evaluation.benchmarks.rows import Item
from vision_sr1.cli.evaluation.benchmarks.scores import Tagged
from vision_sr1.cli.evaluation.benchmarks.visual import VISUAL
from vision_sr1.config import Config

BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in (*VISUAL, *MATHEMATICS, *KNOWLEDGE)}

# Several at once: those of Table 2 of arXiv 2508.19652 v2, all with images, those without, and all.
SUITES: dict[str, Sequence[str]] = {
    "paper": ("mmmu_pro", "mmmu", "realworldqa", "visnumbench", "mathverse", "math_vision", "hallusionbench"),
    "text": ("mmlu_pro", "supergpqa", "gsm8k", "math_500"),
}
SUITES["images"] = tuple(name for name in BENCHMARKS if name not in SUITES["text"])
SUITES["all"] = tuple(BENCHMARKS)


def questionnaire(name: str, config: Config) -> Questionnaire:
    """The questions of one of the configuration's benchmarks.

    Raises:
        DataError: a set cannot be read, or is in no form that is known here.
    """
    chosen = config.evaluation
    return Questionnaire(benchmark(name), chosen.benchmarks[name], config.data, chosen.rows)


def benchmark(name: str) -> Benchmark:
    """The benchmark of this name; one that is not known here is the user's own."""
    return BENCHMARKS.get(name) or Benchmark(name, name)


__all__ = ["BENCHMARKS", "SUITES", "Benchmark", "Item", "Questionnaire", "Tagged", "benchmark", "questionnaire"]
