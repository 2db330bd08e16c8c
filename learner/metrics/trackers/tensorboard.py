"""TensorBoard: event files in the run's folder."""

from collections.abc import Mapping, Sequence

from learner.metrics.trackers.base import TrackedExample
from vision_sr1.config import Config
from vision_sr1.run_folder.names import TENSORBOARD


class TensorBoard:
    """Event files in the run's folder."""

    def __init__(self, config: Config) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(config.run.path / TENSORBOARD))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Under their names as tags."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def samples(self, step: int, title: str, samples: Sequence[TrackedExample]) -> None:
        """A text for each, and its image under the same tag."""
        import numpy as np

        for number, sample in enumerate(samples):
            rows = "\n".join(f"| {name} | {_in_one_line(value)} |" for name, value in sample.cells.items())
            self._writer.add_text(f"{title}/{number}", f"| | |\n|---|---|\n{rows}", step)
            if (picture := sample.picture()) is not None:
                self._writer.add_image(f"{title}/{number}", np.asarray(picture), step, dataformats="HWC")

    def close(self) -> None:
        """Flushes the files."""
        self._writer.close()


def _in_one_line(value: str | float) -> str:
    """A cell of a Markdown table."""
    return str(value).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
