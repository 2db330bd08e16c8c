"""Weights & Biases."""

import uuid
from collections.abc import Mapping, Sequence

from learner.metrics.trackers.base import TrackedExample, columns_of, known_as
from vision_sr1.config import Config, public_settings


class WeightsAndBiases:
    """A run of Weights & Biases; WANDB_* in the environment say where and as whom."""

    def __init__(self, config: Config) -> None:
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=config.metrics.project,
            name=config.run.name,
            id=known_as(config, "wandb", lambda: uuid.uuid4().hex[:12]),
            resume="allow",
            dir=config.run.path,
            config=public_settings(config),
        )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")  # a resumed run repeats steps

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Under their names."""
        self._run.log({**values, "step": step})

    def samples(self, step: int, title: str, samples: Sequence[TrackedExample]) -> None:
        """As a table, and its images once more beside it: of an offline run's table they are no part."""
        columns = columns_of(samples)
        table = self._wandb.Table(columns=["image", *columns])
        images = []
        for number, sample in enumerate(samples):
            image = None
            if (picture := sample.picture()) is not None:
                image = self._wandb.Image(picture)
                images.append(self._wandb.Image(picture, caption=str(number)))
            table.add_data(image, *(sample.cells.get(name) for name in columns))
        self._run.log({title: table, f"{title}/images": images, "step": step})

    def close(self) -> None:
        """Uploads what is left."""
        self._run.finish()
