"""The section `metrics`."""

from typing import Annotated, Literal

from pydantic import Field

from vision_sr1.config.section import HttpUrl, Section

TrackerName = Literal["wandb", "mlflow", "trackio"]


class MetricsConfig(Section):
    """Prometheus endpoints, TensorBoard files, and experiment trackers (docs/tracking.md)."""

    host: str = Field("127.0.0.1", description="Address of the /metrics endpoints.")
    actor_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        9110, description="Metrics port of an actor; 0: off. The launcher adds the actor's number."
    )
    learner_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        9102, description="Metrics port of the first learner rank on each machine; 0: off."
    )
    tensorboard: bool = Field(True, description="Write TensorBoard event files to the run's folder.")
    trackers: list[TrackerName] = Field(
        [],
        description="Experiment trackers that also receive curves and examples; needs the packages of "
        "the extra `tracking`.",
    )
    project: str = Field("vision-sr1", description="Project name in trackers; MLflow calls it an experiment.")
    samples: int = Field(
        8, ge=0, description="Number of answers per evaluation and split that trackers show with their images."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Minimum level of log events.")
    otlp_endpoint: HttpUrl | None = Field(
        None,
        description="OTLP/HTTP endpoint for OpenTelemetry spans, such as http://collector:4318/v1/traces; null: off.",
    )
