"""The section `streams`."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr

from vision_sr1.config.run import NAME
from vision_sr1.config.section import Positive, Seconds, Section, Url, without_password


class StreamsConfig(Section):
    """Redis."""

    url: Annotated[Url, AfterValidator(without_password("VISION_SR1_REDIS_PASSWORD"))] | None = Field(
        None,
        description="redis://, rediss:// or redis+sentinel://host:port,host:port/service/db; "
        "null: the local launcher starts an embedded server.",
    )
    name: Annotated[str, Field(pattern=NAME)] | None = Field(
        None,
        description="Name of the streams. Runs that have it in common, one after the other, are served by the same "
        "actors and the same reward service, and their traces are in one store; null: the name of the run.",
    )
    password: SecretStr | None = Field(None, description="Set it with VISION_SR1_REDIS_PASSWORD, not in a file.")
    lease_s: Seconds = Field(
        15.0, description="Entries of a consumer that is silent for this long are delivered to another."
    )
    max_deliveries: Positive = Field(
        5, description="Number of deliveries after which an entry goes to the dead letters."
    )
    incomplete_groups: Literal["complete", "drop"] = Field(
        "complete",
        description="A group that lost a rollout to the dead letters is completed without it, or dropped.",
    )
    image_ttl_s: Positive = Field(600, description="How long images are kept after the last prompt that uses them.")
    id_ttl_s: Positive = Field(86_400, description="How long a repeated id is recognized.")
    timeout_s: Seconds = Field(10.0, description="Timeout of one command.")
    retry_for_s: Seconds = Field(
        300.0,
        description="How long commands are retried while the server is down, full, frozen or failing over; then the "
        "service ends.",
    )
