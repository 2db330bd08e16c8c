"""What a run has left in its folder: curves and checkpoints."""

from dataclasses import dataclass
from pathlib import Path

from vision_sr1.run_folder import jsonl
from vision_sr1.run_folder.checkpoints import POLICY, newest_whole
from vision_sr1.run_folder.names import SCALARS


@dataclass(frozen=True)
class FinishedRun:
    """A run, by its folder. `vision_sr1.train` returns one; one of an earlier run is made of its folder."""

    folder: Path

    @property
    def checkpoint(self) -> Path | None:
        """The newest whole checkpoint; None where there is none."""
        return newest_whole(self.folder)

    @property
    def policy(self) -> Path | None:
        """That checkpoint's weights in Hugging Face format."""
        return self.checkpoint / POLICY if self.checkpoint is not None else None

    @property
    def scalars(self) -> list[dict[str, float]]:
        """The learner's curves: a mapping a step, with `step` in it; docs/metrics.md has the names. A step that was
        repeated after a restart is there as it was repeated.
        """
        steps: dict[int, dict[str, float]] = {}
        for line in jsonl.read(self.folder / SCALARS):
            step = int(line["step"])
            steps[step] = {**steps.get(step, {}), **line}
        return [steps[step] for step in sorted(steps)]
