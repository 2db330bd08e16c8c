"""How to divide GPUs between learner and actors, or to share them, and how long a batch then takes.

As in `estimates`, nothing here is measured.
"""

import math
from dataclasses import dataclass
from typing import Any

from vision_sr1.cli.planning.estimates import (
    GIB,
    NODE_GPUS,
    ActorMemory,
    LearnerMemory,
    ModelSize,
    actor_host_gib,
    actor_memory,
    all_memories,
    answering_bytes,
    learner_host_gib,
    token_bytes,
    usable_gib,
)
from vision_sr1.cli.planning.publication import PINNED_COPY
from vision_sr1.config import Config, ConfigError
from vision_sr1.config.engine_args import pipeline_stages, processes_of
from vision_sr1.runtime.gpus import Gpu

TRAINING_EFFICIENCY, DECODING_EFFICIENCY = 0.2, 0.6  # of peak FLOP/s, of peak bandwidth
PROMPT_TOKENS, RESPONSE_TOKENS, REQUERY_TOKENS = 1500, 500, 700  # of a usual rollout
SLEEPING_ACTOR_GIB = 3.0  # of its GPU: CUDA context, captured graphs
GLOO = 1.0  # GB/s from learner to actor on one machine without NCCL

ASSUMPTIONS = (
    f"a rollout has {PROMPT_TOKENS} tokens of prompt, {RESPONSE_TOKENS} of response and {REQUERY_TOKENS} of re-query "
    f"(each of reward.requery.questions; a further sample, reward.requery.samples, has {RESPONSE_TOKENS}); "
    "the learner computes a group's prompt once, and re-queries where the objective trains them",
    f"learning reaches {TRAINING_EFFICIENCY:.0%} of peak FLOP/s, decoding {DECODING_EFFICIENCY:.0%} of peak bandwidth",
    "on GPUs of their own, actors answer one batch while the learner learns from the last (learner.max_staleness: 1)",
    f"on shared GPUs a sleeping actor keeps {SLEEPING_ACTOR_GIB:g} GiB; what the learner gives back and takes again "
    f"moves at {PINNED_COPY:g} GB/s, weights go to actors at {GLOO:g} GB/s",
)


@dataclass(frozen=True)
class Plan:
    """A division of the GPUs.

    Attributes:
        shared: learner and actors use the same GPUs in turn.
        actor_gpus: of one actor: those of each layer, times the pipeline's stages.
        engine_args: what the configuration gives vLLM besides.
        gpu_memory_utilization: what an actor takes of its GPUs.
        learner_host_gib, actor_host_gib: of the memory of a learner's machine, and for an actor.
        publish_bytes: sent once a batch to every actor.
        generation_s, training_s: of one batch.
        turns_s: of one batch, in which neither answers nor learns: memory moves, and weights.
    """

    shared: bool
    learner_gpus: int
    actors: int
    tensor_parallel: int
    actor_gpus: int
    engine_args: dict[str, Any]
    gpu_memory_utilization: float
    memory: LearnerMemory
    actor: ActorMemory
    learner_host_gib: float
    actor_host_gib: float
    publish_bytes: int
    generation_s: float
    training_s: float
    turns_s: float = 0.0

    @property
    def batch_s(self) -> float:
        """Seconds a batch."""
        if self.shared:
            return self.generation_s + self.training_s + self.turns_s
        return max(self.generation_s, self.training_s)

    @property
    def overlay(self) -> str | None:
        """Of deploy/kubernetes/overlays, the one to start from; None: pods cannot share GPUs."""
        if self.shared:
            return None
        gpus = self.learner_gpus + self.actors * self.actor_gpus
        return "single-node-gpu" if gpus <= NODE_GPUS else "multi-node"

    def settings(self, path: str) -> dict[str, Any]:
        """The run's YAML."""
        actors: dict[str, Any] = {"count": self.actors, "device": "cuda", "tensor_parallel_size": self.tensor_parallel}
        if self.shared:
            actors |= {"placement": "shared", "gpu_memory_utilization": self.gpu_memory_utilization}
        if self.engine_args:
            actors |= {"engine_args": self.engine_args}
        return {
            "model": {"path": path},
            "actors": actors,
            "learner": {
                "processes": self.learner_gpus,
                "zero_stage": self.memory.zero_stage,
                "gradient_checkpointing": True,
                "max_staleness": int(not self.shared),
                "reference": {"placement": self.memory.placement},
            },
        }


def make_plan(size: ModelSize, config: Config, gpu: Gpu, gpus: int) -> Plan:
    """The division by which a batch takes the least time, of those that fit.

    Learner and actors get GPUs of their own where those suffice and `actors.placement` does not say otherwise.

    Raises:
        ConfigError: none fits.
    """
    own = [] if config.actors.placement == "shared" else own_plans(size, config, gpu, gpus)
    plans = own or shared_plans(size, config, gpu, gpus)
    if not plans:
        least = min(m.total for m in all_memories(size, config, gpus))
        raise ConfigError(
            f"{gpus} GPUs of {gpu.memory_gib:g} GiB do not hold learner and actors, not even in turn: a rank of {gpus} "
            f"needs {least:.0f} GiB at least; take more or larger GPUs, a smaller learner.micro_batch_tokens, or "
            "low-rank adapters (learner.lora.rank)"
        )
    return min(plans, key=lambda plan: plan.batch_s)


def own_plans(size: ModelSize, config: Config, gpu: Gpu, gpus: int) -> list[Plan]:
    """Those in which each GPU is the learner's or an actor's."""
    utilization = config.actors.gpu_memory_utilization
    tensor_parallel = _least_tensor_parallel(size, config, gpu, utilization, gpus)
    if tensor_parallel is None:
        return []
    plans = []
    for learner_gpus in range(1, gpus):
        fitting = [m for m in all_memories(size, config, learner_gpus) if m.total <= usable_gib(gpu)]
        actors, left_over = divmod(gpus - learner_gpus, _actor_gpus(config, tensor_parallel))
        if fitting and not left_over:
            plans.append(_plan(size, config, gpu, fitting[0], learner_gpus, actors, tensor_parallel, utilization))
    return plans


def shared_plans(size: ModelSize, config: Config, gpu: Gpu, gpus: int) -> list[Plan]:
    """That in which all GPUs learn and answer, if it fits."""
    for memory in all_memories(size, config, gpus):
        if memory.total + SLEEPING_ACTOR_GIB > usable_gib(gpu):
            continue
        utilization = math.floor(100 * (usable_gib(gpu) - memory.kept) / gpu.memory_gib) / 100
        tensor_parallel = _least_tensor_parallel(size, config, gpu, utilization, gpus)
        if tensor_parallel is not None:
            actors = gpus // _actor_gpus(config, tensor_parallel)
            return [_plan(size, config, gpu, memory, gpus, actors, tensor_parallel, utilization, shared=True)]
    return []


def _plan(
    size: ModelSize,
    config: Config,
    gpu: Gpu,
    memory: LearnerMemory,
    ranks: int,
    actors: int,
    tensor_parallel: int,
    utilization: float,
    *,
    shared: bool = False,
) -> Plan:
    actor = actor_memory(size, config, gpu, tensor_parallel, utilization)
    moved = memory.given_back if shared else 0.0
    sent = size.published / GIB if config.learner.weights.send == "delta" else 0.0  # both sides keep what was sent
    receivers = _actor_gpus(config, tensor_parallel) if shared else 1
    return Plan(
        shared,
        ranks,
        actors,
        tensor_parallel,
        _actor_gpus(config, tensor_parallel),
        config.actors.engine_args,
        utilization,
        memory,
        actor,
        learner_host_gib(size, ranks) + (memory.reference_host + moved) * min(ranks, NODE_GPUS) + sent,
        actor_host_gib(size, receivers) + (sent * receivers if shared else 0.0),
        size.published,
        _generation_s(size, config, gpu, actors, tensor_parallel, actor.tokens),
        _training_s(size, config, gpu, ranks),
        2 * moved * GIB / (PINNED_COPY * 1e9) + size.published / (GLOO * 1e9) if shared else 0.0,
    )


def _least_tensor_parallel(size: ModelSize, config: Config, gpu: Gpu, utilization: float, gpus: int) -> int | None:
    """The fewest GPUs an actor, of those that divide a machine, whose cache holds some sequences; no fewer than
    `actors.tensor_parallel_size`."""
    enough = 4 * config.model.max_model_len
    least = config.actors.tensor_parallel_size
    sizes = (n for n in (1, 2, 4, 8) if n >= least and _actor_gpus(config, n) <= gpus)
    return next((n for n in sizes if actor_memory(size, config, gpu, n, utilization).tokens >= enough), None)


def _actor_gpus(config: Config, tensor_parallel: int) -> int:
    return tensor_parallel * processes_of(config.actors.engine_args)


def _generation_s(size: ModelSize, config: Config, gpu: Gpu, actors: int, tensor_parallel: int, cache: int) -> float:
    length = PROMPT_TOKENS + RESPONSE_TOKENS
    at_once = max(1, min(config.actors.max_num_seqs, cache // length))
    cached = length * token_bytes(size, config) + 2 * size.state_bytes
    bytes_per_step = answering_bytes(size, config) + at_once * cached
    parts = tensor_parallel * pipeline_stages(config.actors.engine_args)
    seconds_per_step = bytes_per_step / (parts * gpu.bandwidth * 1e12 * DECODING_EFFICIENCY)
    rollouts = config.learner.prompts_per_batch * config.sampling.group_size
    requery = config.reward.requery
    asked = config.has_requery(evaluation=False) * requery.questions * requery.samples  # each as long
    return rollouts * (1 + asked) * RESPONSE_TOKENS / (actors * at_once / seconds_per_step)


def _training_s(size: ModelSize, config: Config, gpu: Gpu, ranks: int) -> float:
    requery = config.reward.requery
    asked = requery.questions * (REQUERY_TOKENS + (requery.samples - 1) * RESPONSE_TOKENS)  # prompts once
    asked *= any(component.trains_requery for component in config.learner.components)
    group = PROMPT_TOKENS + config.sampling.group_size * (RESPONSE_TOKENS + asked)
    tokens = config.learner.prompts_per_batch * group
    flops = 10.0 * size.parameters * tokens  # forward, backward, recomputed forward, reference
    dependency = config.learner.dependency
    masked = 2.0 * dependency.is_used + 8.0 * bool(
        dependency.kl_bonus
    )  # forward; forward, backward, recomputed forward
    answers = config.learner.prompts_per_batch * (PROMPT_TOKENS + config.sampling.group_size * RESPONSE_TOKENS)
    flops += masked * size.parameters * answers  # re-queries have no images
    return flops / (ranks * gpu.tflops * 1e12 * TRAINING_EFFICIENCY)
