"""The section `actors`."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from vision_sr1.config.engine_args import check_engine_args, processes_of
from vision_sr1.config.section import Positive, Seconds, Section


def _usable(arguments: dict[str, Any]) -> dict[str, Any]:
    check_engine_args(arguments)
    return arguments


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
    tensor_parallel_size: Positive = Field(1, description="GPUs that share each layer of an actor's model.")
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
    engine_args: Annotated[dict[str, Any], AfterValidator(_usable)] = Field(
        {},
        description="Further arguments of vLLM's AsyncEngineArgs, by their names there: max_num_batched_tokens, "
        "kv_cache_dtype, quantization, pipeline_parallel_size and others. Quantized weights and caches differ from the "
        "trainer's by more: set learner.weights.verify_tolerance.",
    )
    heartbeat_s: Seconds = Field(
        2.0, description="Interval between heartbeats; an actor that misses five has left the fleet."
    )
    drain_s: Seconds = Field(
        1.0, description="Time after SIGTERM to finish prompts before they are returned to the stream."
    )

    @property
    def world_size(self) -> int:
        """GPUs per actor, or processes on CPUs: those of each layer, times the pipeline's stages."""
        return self.tensor_parallel_size * processes_of(self.engine_args)
