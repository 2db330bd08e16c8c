"""Trackio."""

import uuid
from collections.abc import Mapping, Sequence

from learner.metrics.trackers.base import TrackedExample, columns_of, known_as
from vision_sr1.config import Config, public_settings


class Trackio:
    """A run of Trackio; TRACKIO_* in the environment say where."""

    def __init__(self, config: Config) -> None:
        import trackio

        self._trackio = trackio
        self._run = trackio.init(
            project=config.metrics.project,
            name=known_as(config, "trackio", lambda: f"{config.run.name}-{uuid.uuid4().hex[:6]}"),
            config=public_settings(config),
            resume="allow",
            embed=False,
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Under their names."""
        self._run.log(dict(values), step=step)

    def samples(self, step: int, title: str, samples: Sequence[TrackedExample]) -> None:
        """As a table."""
        columns = columns_of(samples)
        rows = []
        for sample in samples:
            picture = sample.picture()
            image = None if picture is None else self._trackio.Image(picture)
            rows.append([image, *(sample.cells.get(name) for name in columns)])
        self._run.log({title: self._trackio.Table(columns=["image", *columns], data=rows)}, step=step)

    def close(self) -> None:
        """Uploads what is left."""
        self._run.finish()
