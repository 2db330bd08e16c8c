"""MLflow."""

import json
import os
import time
from collections.abc import Mapping, Sequence

from learner.metrics.trackers.base import TrackedExample, known_as
from vision_sr1.config import Config, public_settings


class MLflow:
    """A run of an MLflow experiment; MLFLOW_TRACKING_URI says where, else a database in the run's folder."""

    def __init__(self, config: Config) -> None:
        from mlflow import MlflowClient

        folder = config.run.path.absolute()
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        self._client = MlflowClient(uri or f"sqlite:///{folder / 'mlflow.db'}")
        where = None if uri else (folder / "mlflow").as_uri()

        def begin() -> str:
            experiment = self._client.get_experiment_by_name(config.metrics.project)
            number = (
                self._client.create_experiment(config.metrics.project, artifact_location=where)
                if experiment is None
                else experiment.experiment_id
            )
            return str(self._client.create_run(number, run_name=config.run.name).info.run_id)

        self._id = known_as(config, "mlflow", begin)
        self._client.update_run(self._id, status="RUNNING")
        self._client.log_dict(self._id, public_settings(config), "config.json")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Under their names."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self._id, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def samples(self, step: int, title: str, samples: Sequence[TrackedExample]) -> None:
        """As a list of texts, and their images beside it."""
        folder = f"{title}/{step:06d}"
        rows = json.dumps([sample.cells for sample in samples], indent=1)
        self._client.log_text(self._id, rows, f"{folder}/samples.json")
        for number, sample in enumerate(samples):
            if (picture := sample.picture()) is not None:
                self._client.log_image(self._id, picture, f"{folder}/{number}.png")

    def close(self) -> None:
        """Says that the run has come to its end."""
        self._client.set_terminated(self._id)
