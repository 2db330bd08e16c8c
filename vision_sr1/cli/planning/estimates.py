"""What a run needs of GPUs and hosts: memory of learner and actors.

Nothing here is measured: every figure follows from the model's configuration and `ASSUMPTIONS`.
"""

import math
import re
from dataclasses import dataclass, replace
from typing import Any

from vision_sr1.config import Config, ConfigError, LearnerConfig, Placement
from vision_sr1.config.engine_args import cache_bytes, pipeline_stages, weight_bytes
from vision_sr1.families import family_of, read_config
from vision_sr1.families.family import Family, VisionSizes
from vision_sr1.models.check import check_place
from vision_sr1.runtime.gpus import GPUS, Gpu

GIB = 2**30

GRADIENT_BYTES = 4  # of a trained parameter: gradients are summed in float32
OPTIMIZER_BYTES = 12  # of a trained parameter in mixed precision: float32 weight and both moments of Adam
GATHERED_PARAMETERS = 1e9  # that ZeRO-3 has whole at once, at the most: DeepSpeed's stage3_max_live_parameters
RESERVE_GIB = 3.0  # CUDA context, NCCL buffers, kernels' workspace
FRAGMENTATION = 0.08  # of a GPU's memory that the allocator cannot use
ACTOR_WORK_GIB = 4.0  # activations of the longest batch, captured graphs
LOGIT_BYTES = 12  # three float32: a log-probability, its gradient, and the gradient of its logit
NODE_GPUS = 8
RANK_HOST_GIB, ACTOR_HOST_GIB = 5.0, 12.0  # of the host's memory: a process with CUDA, and what it prepares

ASSUMPTIONS = (
    f"training in bfloat16: a parameter takes 2 bytes, its gradient {GRADIENT_BYTES}, the optimizer {OPTIMIZER_BYTES} "
    f"(AdamW); ranks divide the optimizer from ZeRO-1 on, gradients from 2 on, weights at 3, with "
    f"{2 * GATHERED_PARAMETERS / GIB:.1f} GiB of them gathered at once; while the largest matrix's gradient is reduced "
    "it is there in bfloat16, from ZeRO-2 on in float32 too",
    "activations: as many as a pack of learner.micro_batch_tokens needs where all of it is image tokens but for "
    "learner.logits_chunk_tokens of responses, with gradient checkpointing",
    f"{RESERVE_GIB:g} GiB of a learner's GPU and {ACTOR_WORK_GIB:g} GiB of an actor's are not for tensors, "
    f"{FRAGMENTATION:.0%} is lost to fragmentation",
    f"host memory: {RANK_HOST_GIB:g} GiB a rank and {ACTOR_HOST_GIB:g} GiB an actor beside weights, which each loads "
    f"there, and the learner's snapshots; {NODE_GPUS} GPUs a machine",
)


@dataclass(frozen=True)
class ModelSize:
    """What matters of a model's architecture.

    Attributes:
        vision_parameters: of the vision tower and its projector.
        trainable: parameters that learn: all, those outside the vision tower, or low-rank adapters.
        attention_width: heads times their size, in the language model.
        tied: the output head's weight is the input embedding's.
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
    attention_width: int
    vocabulary: int
    tied: bool
    kv_bytes: int
    state_bytes: int
    vision: VisionSizes


@dataclass(frozen=True)
class LearnerMemory:
    """One rank's, in GiB.

    Attributes:
        placement: the reference's.
        gradients: all, or this rank's part; and the largest one while it is reduced.
        reference_host: the part of the reference that is in the host's memory.
    """

    zero_stage: int
    placement: Placement
    weights: float
    gradients: float
    optimizer: float
    reference: float
    reference_host: float
    activations: float

    @property
    def total(self) -> float:
        """All of it, and what is not for tensors."""
        return self.weights + self.gradients + self.optimizer + self.reference + self.activations + RESERVE_GIB

    @property
    def given_back(self) -> float:
        """What is in the host's memory while actors use the device in their turn (`learner.devices.offload`)."""
        buffers = 0.0 if self.zero_stage == 2 else self.gradients  # ZeRO-2 makes its own anew for each step
        return self.optimizer + buffers + (self.reference if self._has_copy else 0.0)

    @property
    def kept(self) -> float:
        """What the learner holds on the device meanwhile."""
        return self.weights + (0.0 if self._has_copy else self.reference) + RESERVE_GIB

    @property
    def _has_copy(self) -> bool:
        return self.placement == "policy" and self.zero_stage < 3


@dataclass(frozen=True)
class ActorMemory:
    """One actor's GPU, in GiB, and what its key-value cache holds."""

    weights: float
    kv_cache: float
    tokens: int


def chosen_gpu(text: str) -> Gpu:
    """A kind by its name, or one of so many GiB that is otherwise like an H100.

    Raises:
        ConfigError: neither.
    """
    known = {name.casefold(): gpu for name, gpu in GPUS.items()}
    if text.casefold() in known:
        return known[text.casefold()]
    try:
        memory_gib = float(text)
    except ValueError:
        memory_gib = 0.0
    if not 0 < memory_gib < math.inf:
        raise ConfigError(f"--gpu {text!r}: known are {', '.join(GPUS)}; or give the memory in GiB, as 48")
    return replace(GPUS["H100"], memory_gib=memory_gib)


def model_size(path: str, learner: LearnerConfig) -> ModelSize:
    """Reads a model's configuration, from a folder or a hub, and no weights.

    Raises:
        ConfigError: there is none, or it is of a kind that cannot be trained.
    """
    check_place(path)
    import torch
    from transformers import AutoModelForImageTextToText

    config = read_config(path)
    family = family_of(config.model_type)
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
        attention_width=attention.attention_width,
        vocabulary=text.vocab_size,
        tied=model.get_output_embeddings().weight is model.get_input_embeddings().weight,
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


def learner_memory(
    size: ModelSize, config: Config, ranks: int, *, zero_stage: int, placement: Placement
) -> LearnerMemory:
    """What one of so many ranks needs, as DeepSpeed divides it."""
    count, trainable = size.parameters / GIB, size.trainable / GIB
    largest = 0.0 if config.learner.lora.rank else size.vocabulary * size.hidden / GIB  # bfloat16: in activations
    gathered = min(size.parameters, GATHERED_PARAMETERS) / GIB if zero_stage == 3 else 0.0
    shards = {stage: ranks if zero_stage >= stage else 1 for stage in (1, 2, 3)}
    reference = 2 * count / (shards[3] if placement == "policy" else ranks) if has_reference(config.learner) else 0.0
    return LearnerMemory(
        zero_stage=zero_stage,
        placement=placement,
        weights=2 * (count / shards[3] + gathered),
        gradients=GRADIENT_BYTES * (trainable / shards[2] + (largest if zero_stage >= 2 else 0.0)),
        optimizer=OPTIMIZER_BYTES * trainable / shards[1],
        reference=0.0 if placement == "cpu" else reference,
        reference_host=reference if placement == "cpu" else 0.0,
        activations=activation_bytes(size, config.learner) / GIB,
    )


def actor_memory(size: ModelSize, config: Config, gpu: Gpu, tensor_parallel: int, utilization: float) -> ActorMemory:
    """What one of an actor's GPUs holds of this fraction of its memory; the cache's tokens are the whole actor's."""
    parts = tensor_parallel * pipeline_stages(config.actors.engine_args)
    weights = answering_bytes(size, config) / GIB / parts
    states = config.actors.max_num_seqs * size.state_bytes / GIB / parts
    cache = utilization * gpu.memory_gib - weights - states - ACTOR_WORK_GIB
    return ActorMemory(weights, cache, max(0, int(cache * GIB * parts / token_bytes(size, config))))


def answering_bytes(size: ModelSize, config: Config) -> float:
    """Weights as an actor holds them; the embeddings and the output head are not quantized."""
    embeddings = size.vocabulary * size.hidden * (1 if size.tied else 2)
    quantized = weight_bytes(config.actors.engine_args) * (size.parameters - embeddings)
    return 2 * embeddings + quantized


def token_bytes(size: ModelSize, config: Config) -> float:
    """Of one token in an actor's cache."""
    return size.kv_bytes * cache_bytes(config.actors.engine_args) / 2


def learner_host_gib(size: ModelSize, ranks: int) -> float:
    """Memory of one of the learner's machines: all of its ranks load the weights at first, and later it holds its part
    of a snapshot (weights and moments in float32), the first one the policy to be exported too."""
    nodes = -(-ranks // NODE_GPUS)
    on_node = -(-ranks // nodes)
    weights = 2 * size.parameters / GIB
    return on_node * RANK_HOST_GIB + max(on_node * weights, 12 * size.trainable / GIB / nodes + weights)


def actor_host_gib(size: ModelSize, receivers: int) -> float:
    """Memory of an actor outside its GPUs, in which so many of its workers receive all weights."""
    return ACTOR_HOST_GIB + receivers * 2 * size.parameters / GIB


def usable_gib(gpu: Gpu) -> float:
    """Of a learner's GPU."""
    return gpu.memory_gib * (1 - FRAGMENTATION)


def all_memories(size: ModelSize, config: Config, ranks: int) -> list[LearnerMemory]:
    """By ZeRO stage and the reference's placement, the fastest first."""
    choices: tuple[tuple[int, Placement], ...] = (
        *((1, "policy"), (2, "policy"), (2, "sharded")),
        *((2, "cpu"), (3, "policy"), (3, "cpu")),
    )
    return [
        learner_memory(size, config, ranks, zero_stage=stage, placement=placement)
        for stage, placement in choices
        if placement == "policy" or has_reference(config.learner)
    ]


def has_reference(learner: LearnerConfig) -> bool:
    """Whether the reference takes memory of its own: adapters apart, the policy is one."""
    is_used = any(component.kl_coef > 0 for component in learner.components)
    return is_used and not (learner.lora.rank and not learner.reference.refresh_every)


def activation_bytes(size: ModelSize, learner: LearnerConfig) -> int:
    """The most that activations of a forward and backward pass take on one rank, in bytes.

    Where the peak is, the inputs of all layers are kept, and one layer is computed again and differentiated, or the
    output head is. What operations save for the backward pass, and what they need besides, was counted in traces of
    Qwen2.5-VL and Qwen3-VL on meta tensors (`tests/learner/model/test_memory.py`). bfloat16 takes 2 bytes, float32 4:

    - Inputs of the language model's layers: 2 hidden a token and layer. Those of the vision tower: 2 hidden a patch and
      layer, once that for the patches themselves, and four times for each projector, which is not computed again (its
      norm, between its matrices); nothing where the tower does not learn.
    - A layer: see `_layer_bytes`; of the language model by token, or of the tower by patch, after the former is done.
    - The output head, for learner.logits_chunk_tokens: `LOGIT_BYTES` a logit.
    - The gradient of the output head's weight, while parts of it are added up. If tied, it is held until the input
      embedding's part comes last.
    """
    learns_all = not learner.lora.rank
    tokens, vision = learner.micro_batch_tokens, size.vision
    patches = max(0, tokens - learner.logits_chunk_tokens) * vision.patches_per_token
    language_inputs = 2 * tokens * size.layers * size.hidden
    vision_inputs = 2 * patches * (vision.layers + 1 + 4 * vision.projectors) * vision.hidden
    if not learns_all or learner.freeze_vision:
        vision_inputs = 0
    head_gradient = 2 * size.vocabulary * size.hidden * learns_all
    held_gradient = head_gradient * size.tied
    head = learner.logits_chunk_tokens * size.vocabulary * LOGIT_BYTES + head_gradient
    language_layer = tokens * _layer_bytes(size.hidden, size.intermediate, size.attention_width) + held_gradient
    vision_layer = patches * _layer_bytes(vision.hidden, vision.intermediate, vision.hidden) + held_gradient
    return vision_inputs + max(language_inputs + max(head, language_layer), vision_layer)


def _layer_bytes(hidden: int, intermediate: int, attention_width: int) -> int:
    """Of one token in a layer that is computed again and differentiated, at its largest: in the gated MLP.

    There, six values of the MLP's width: gate, up, the activated gate, their product, and gradients of two. Of the
    hidden width, both norms' inputs in float32, and five values: residuals, what norms give, gradients. Of the
    attention's width, query and output, and as much again where queries are normalized in float32.
    """
    return 2 * 6 * intermediate + (2 * 4 + 2 * 5) * hidden + 2 * 4 * attention_width
