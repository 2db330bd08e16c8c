"""What a run needs of GPUs: memory of learner and actors, how to divide the GPUs, and what a publication moves.

Nothing here is measured: every figure follows from the model's configuration and `ASSUMPTIONS`.
"""

import re
from dataclasses import dataclass, replace
from typing import Any

from vision_sr1.config import Config, ConfigError, LearnerConfig
from vision_sr1.families import family_of
from vision_sr1.families.family import Family, VisionSizes
from vision_sr1.models.check import check_place
from vision_sr1.runtime.gpus import GPUS, Gpu

GIB = 2**30

OPTIMIZER_BYTES = 16  # of a parameter in mixed precision: float32 weight, gradient and both moments of Adam
RESERVE_GIB = 3.0  # CUDA context, NCCL buffers, kernels' workspace
FRAGMENTATION = 0.08  # of a GPU's memory that the allocator cannot use
ACTOR_WORK_GIB = 4.0  # activations of the longest batch, captured graphs
TRAINING_EFFICIENCY, DECODING_EFFICIENCY = 0.2, 0.6  # of peak FLOP/s, of peak bandwidth
NODE_GPUS = 8
RANK_HOST_GIB, ACTOR_HOST_GIB = 5.0, 12.0  # of the host's memory: a process with CUDA, and what it prepares
PROMPT_TOKENS, RESPONSE_TOKENS, REQUERY_TOKENS = 1500, 500, 700  # of a usual rollout

ASSUMPTIONS = (
    f"training: a parameter takes 2 bytes, its gradient 2, the optimizer {OPTIMIZER_BYTES} (AdamW, mixed precision)",
    "activations: as many as a pack of learner.micro_batch_tokens needs where all of it is image tokens",
    f"{RESERVE_GIB:g} GiB of a learner's GPU and {ACTOR_WORK_GIB:g} GiB of an actor's are not for tensors, "
    f"{FRAGMENTATION:.0%} is lost to fragmentation",
    f"host memory: {RANK_HOST_GIB:g} GiB a rank and {ACTOR_HOST_GIB:g} GiB an actor beside weights, which each loads "
    f"there, and the learner's snapshots; {NODE_GPUS} GPUs a machine",
    f"a rollout has {PROMPT_TOKENS} tokens of prompt, {RESPONSE_TOKENS} of response and {REQUERY_TOKENS} of re-query; "
    "the learner computes a group's prompt once",
    f"learning reaches {TRAINING_EFFICIENCY:.0%} of peak FLOP/s, decoding {DECODING_EFFICIENCY:.0%} of peak bandwidth",
    "actors answer one batch while the learner learns from the last (learner.max_staleness: 1)",
)


@dataclass(frozen=True)
class ModelSize:
    """What matters of a model's architecture.

    Attributes:
        vision_parameters: of the vision tower and its projector.
        trainable: parameters that learn: all, those outside the vision tower, or low-rank adapters.
        published: bytes that actors are sent, in bfloat16.
        kv_bytes: of one token in an actor's cache, in bfloat16.
        state_bytes: of one sequence there, in float32; 0 without linear attention.
    """

    parameters: int
    vision_parameters: int
    trainable: int
    published: int
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    kv_bytes: int
    state_bytes: int
    vision: VisionSizes


@dataclass(frozen=True)
class LearnerMemory:
    """One rank's, in GiB."""

    zero_stage: int
    reference_offload: bool
    weights: float
    gradients: float
    optimizer: float
    reference: float
    activations: float

    @property
    def total(self) -> float:
        """All of it, and what is not for tensors."""
        return self.weights + self.gradients + self.optimizer + self.reference + self.activations + RESERVE_GIB


@dataclass(frozen=True)
class ActorMemory:
    """One actor's GPU, in GiB, and what its key-value cache holds."""

    weights: float
    kv_cache: float
    tokens: int


@dataclass(frozen=True)
class Plan:
    """A split of the GPUs.

    Attributes:
        learner_host_gib, actor_host_gib: of the memory of a learner's machine, and for an actor.
        publish_bytes: sent once a batch to every actor.
        generation_s, training_s: of one batch.
    """

    learner_gpus: int
    actors: int
    tensor_parallel: int
    memory: LearnerMemory
    actor: ActorMemory
    learner_host_gib: float
    actor_host_gib: float
    publish_bytes: int
    generation_s: float
    training_s: float

    @property
    def overlay(self) -> str:
        """Of deploy/kubernetes/overlays, the one to start from."""
        gpus = self.learner_gpus + self.actors * self.tensor_parallel
        return "single-node-gpu" if gpus <= NODE_GPUS else "multi-node"

    def settings(self, path: str) -> dict[str, Any]:
        """The run's YAML."""
        return {
            "model": {"path": path},
            "actors": {"count": self.actors, "device": "cuda", "tensor_parallel_size": self.tensor_parallel},
            "learner": {
                "processes": self.learner_gpus,
                "zero_stage": self.memory.zero_stage,
                "gradient_checkpointing": True,
                "max_staleness": 1,
                "reference": {"offload": self.memory.reference_offload},
            },
        }


def chosen_gpu(text: str) -> Gpu:
    """A kind by its name, or one of so many GiB that is otherwise like an H100.

    Raises:
        ConfigError: neither.
    """
    if text in GPUS:
        return GPUS[text]
    try:
        return replace(GPUS["H100"], memory_gib=float(text))
    except ValueError:
        raise ConfigError(f"--gpu {text!r}: known are {', '.join(GPUS)}; or give the memory in GiB, as 48") from None


def model_size(path: str, learner: LearnerConfig) -> ModelSize:
    """Reads a model's configuration, from a folder or a hub, and no weights.

    Raises:
        ConfigError: there is none, or it is of a kind that cannot be trained.
    """
    check_place(path)
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{path!r} has no model's configuration: {' '.join(str(error).split())}") from error
    try:
        family = family_of(config.model_type)
    except ConfigError as error:
        raise ConfigError(f"{path!r}: {error}") from None
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    text, vision = config.get_text_config(), family.vision_sizes(config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trainable = _trainable(model, family, learner)
    attention = family.language_sizes(config)
    return ModelSize(
        parameters=parameters,
        vision_parameters=sum(p.numel() for name, p in model.named_parameters() if family.is_vision(name)),
        trainable=trainable,
        published=2 * (trainable if learner.lora.goes_to_actors else parameters),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        vocabulary=text.vocab_size,
        kv_bytes=2 * attention.attention_layers * attention.kv_width,
        state_bytes=4 * attention.state,
        vision=vision,
    )


def _trainable(model: Any, family: Family, learner: LearnerConfig) -> int:
    if learner.lora.rank:
        targets = re.compile(learner.lora.target_modules)
        return sum(
            learner.lora.rank * (module.in_features + module.out_features)
            for name, module in model.named_modules()
            if hasattr(module, "in_features") and targets.fullmatch(name)
        )
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if not (learner.freeze_vision and family.is_vision(name))
    )


def learner_memory(size: ModelSize, config: Config, ranks: int, *, zero_stage: int, offload: bool) -> LearnerMemory:
    """What one of so many ranks needs, as DeepSpeed divides it."""
    count, trainable = size.parameters / GIB, size.trainable / GIB
    has_reference = not config.learner.lora.rank and not offload  # adapters apart, the policy is its own reference
    shards = {stage: ranks if zero_stage >= stage else 1 for stage in (1, 2, 3)}
    tokens = config.learner.micro_batch_tokens
    vision = size.vision
    patches = tokens * vision.patches_per_token
    kept = 2 * (tokens * size.layers * size.hidden + patches * vision.layers * vision.hidden)
    of_layer = max(
        tokens * _layer_bytes(size.hidden, size.intermediate),
        patches * _layer_bytes(vision.hidden, vision.intermediate),
    )
    logits = config.learner.logits_chunk_tokens * size.vocabulary * (2 + 4 + 4)
    return LearnerMemory(
        zero_stage=zero_stage,
        reference_offload=offload,
        weights=2 * count / shards[3],
        gradients=2 * trainable / shards[2],
        optimizer=OPTIMIZER_BYTES * trainable / shards[1],
        reference=2 * count / shards[3] if has_reference else 0.0,
        activations=(kept + of_layer + logits) / GIB,
    )


def actor_memory(size: ModelSize, config: Config, gpu: Gpu, tensor_parallel: int) -> ActorMemory:
    """What one of an actor's GPUs holds; the cache's tokens are those of the whole actor."""
    weights = 2 * size.parameters / GIB / tensor_parallel
    states = config.actors.max_num_seqs * size.state_bytes / GIB / tensor_parallel
    cache = config.actors.gpu_memory_utilization * gpu.memory_gib - weights - states - ACTOR_WORK_GIB
    return ActorMemory(weights, cache, max(0, int(cache * GIB * tensor_parallel / size.kv_bytes)))


def make_plan(size: ModelSize, config: Config, gpu: Gpu, gpus: int) -> Plan:
    """The split by which a batch takes the least time, of those that fit.

    Raises:
        ConfigError: none fits.
    """
    tensor_parallel = next(
        (n for n in (1, 2, 4, 8) if actor_memory(size, config, gpu, n).tokens >= 4 * config.model.max_model_len), None
    )
    plans = []
    for learner_gpus in range(1, gpus):
        if tensor_parallel is None or (gpus - learner_gpus) % tensor_parallel:
            continue
        fitting = [m for m in all_memories(size, config, learner_gpus) if m.total <= usable_gib(gpu)]
        if not fitting:
            continue
        actors = (gpus - learner_gpus) // tensor_parallel
        actor = actor_memory(size, config, gpu, tensor_parallel)
        plans.append(
            Plan(
                learner_gpus,
                actors,
                tensor_parallel,
                fitting[0],
                actor,
                learner_host_gib(size, learner_gpus),
                actor_host_gib(size),
                size.published,
                _generation_s(size, config, gpu, actors, tensor_parallel, actor.tokens),
                _training_s(size, config, gpu, learner_gpus),
            )
        )
    if not plans:
        least = min(m.total for m in all_memories(size, config, max(1, gpus - 1)))
        raise ConfigError(
            f"{gpus} GPUs of {gpu.memory_gib:g} GiB do not hold learner and actors: a rank of {max(1, gpus - 1)} needs "
            f"{least:.0f} GiB at least, and an actor needs a GPU too; take more or larger GPUs, a smaller "
            "learner.micro_batch_tokens, or low-rank adapters (learner.lora.rank)"
        )
    return min(plans, key=lambda plan: max(plan.generation_s, plan.training_s))


def learner_host_gib(size: ModelSize, ranks: int) -> float:
    """Memory of one of the learner's machines: all of its ranks load the weights at first, and later it holds its part
    of a snapshot (weights and moments in float32), the first one the policy to be exported too."""
    nodes = -(-ranks // NODE_GPUS)
    on_node = -(-ranks // nodes)
    weights = 2 * size.parameters / GIB
    return on_node * RANK_HOST_GIB + max(on_node * weights, 12 * size.trainable / GIB / nodes + weights)


def actor_host_gib(size: ModelSize) -> float:
    """Memory of an actor outside its GPUs."""
    return ACTOR_HOST_GIB + 2 * size.parameters / GIB


def usable_gib(gpu: Gpu) -> float:
    """Of a learner's GPU."""
    return gpu.memory_gib * (1 - FRAGMENTATION)


def all_memories(size: ModelSize, config: Config, ranks: int) -> list[LearnerMemory]:
    """By ZeRO stage and offload, the fastest first."""
    return [
        learner_memory(size, config, ranks, zero_stage=stage, offload=offload)
        for stage, offload in ((1, False), (2, False), (2, True), (3, False), (3, True))
    ]


def _layer_bytes(hidden: int, intermediate: int) -> int:
    """Of one token in one layer whose activations are recomputed: attention, norms in float32, gated MLP."""
    return 2 * 6 * hidden + 4 * 2 * hidden + 2 * 4 * intermediate


def _generation_s(size: ModelSize, config: Config, gpu: Gpu, actors: int, tensor_parallel: int, cache: int) -> float:
    length = PROMPT_TOKENS + RESPONSE_TOKENS
    at_once = max(1, min(config.actors.max_num_seqs, cache // length))
    bytes_per_step = 2 * size.parameters + at_once * (length * size.kv_bytes + 2 * size.state_bytes)
    seconds_per_step = bytes_per_step / (tensor_parallel * gpu.bandwidth * 1e12 * DECODING_EFFICIENCY)
    rollouts = config.learner.prompts_per_batch * config.sampling.group_size
    return rollouts * 2 * RESPONSE_TOKENS / (actors * at_once / seconds_per_step)  # the re-query is as long


def _training_s(size: ModelSize, config: Config, gpu: Gpu, ranks: int) -> float:
    group = PROMPT_TOKENS + config.sampling.group_size * (RESPONSE_TOKENS + REQUERY_TOKENS)  # its prompt once
    tokens = config.learner.prompts_per_batch * group
    flops = 10.0 * size.parameters * tokens  # forward, backward, recomputed forward, reference
    return flops / (ranks * gpu.tflops * 1e12 * TRAINING_EFFICIENCY)
