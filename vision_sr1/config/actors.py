"""The section `actors`."""

from typing import Annotated, Literal

from pydantic import Field

from vision_sr1.config.section import Positive, Seconds, Section


class ActorsConfig(Section):
    """The vLLM actor servers."""

    count: Positive = Field(1, description="Number of actors that the local launcher starts.")
    host: str = Field("127.0.0.1", description="Address that an actor listens on and announces.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(0, description="gRPC port; 0 chooses a free one.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto uses CUDA where it is available.")
    placement: Literal["own", "shared"] = Field(
        "own",
        description="own: actors have devices of their own, and answer while the learner learns where "
        "learner.max_staleness allows it. shared: actors and learner use the same devices in turn; an actor gives its "
        "memory back while the learner learns. Needs learner.max_staleness: 0.",
    )
    tensor_parallel_size: Positive = Field(1, description="GPUs per actor.")
    prompts_in_flight: Positive = Field(64, description="Prompts that one actor answers concurrently.")
    max_num_seqs: Positive = Field(256, description="Maximum number of sequences in a vLLM decoding batch.")
    kv_cache_gib: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Size of the key-value cache on CPU actors, GiB."
    )
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = Field(
        0.85, description="Fraction of GPU memory that vLLM may use."
    )
    enforce_eager: bool = Field(
        False, description="Disable graph capture: starts faster, generates slower. Always on for CPUs."
    )
    enable_prefix_caching: bool = Field(True, description="Reuse key-value blocks of equal prefixes.")
    cpu_threads: Positive = Field(1, description="OpenMP threads of a CPU actor's engine.")
    heartbeat_s: Seconds = Field(
        2.0, description="Interval between heartbeats; an actor that misses five has left the fleet."
    )
    drain_s: Seconds = Field(
        1.0, description="Time after SIGTERM to finish prompts before they are returned to the stream."
    )
