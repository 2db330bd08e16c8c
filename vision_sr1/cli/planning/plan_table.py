"""A plan as people read it, and as the YAML that carries it out."""

import yaml
from rich.console import Console
from rich.table import Table

from vision_sr1.cli.planning import division, estimates, publication
from vision_sr1.cli.planning.division import Plan, make_plan
from vision_sr1.cli.planning.estimates import GIB, ModelSize, all_memories, usable_gib
from vision_sr1.config import Config, ConfigError
from vision_sr1.runtime.gpus import FLOAT32_IS_SLOW, Gpu


def print_plan(console: Console, path: str, size: ModelSize, config: Config, gpu: Gpu, gpus: int) -> None:
    """Prints memory by ZeRO stage and the reference's placement, then the split, then its YAML.

    Raises:
        ConfigError: no split fits; what was found until then is printed.
    """
    console.print(
        f"{path}: {size.parameters / 1e9:.2f} billion parameters, on {_counted(gpus, 'GPU')} of {gpu.memory_gib:g} GiB",
        highlight=False,
    )
    try:
        plan = make_plan(size, config, gpu, gpus)
    except ConfigError:
        console.print(_memories(size, config, gpu, gpus))
        raise
    console.print(_memories(size, config, gpu, plan.learner_gpus))
    sends_over_links = not (plan.shared or config.learner.lora.goes_to_actors)
    facts = [
        *([f"{FLOAT32_IS_SLOW}, for which this is computed"] if config.model.dtype == "float32" else []),
        f"learner: {_ranks(plan.learner_gpus)}, each on a GPU, of which it takes {plan.memory.total:.0f} of "
        f"{usable_gib(gpu):.0f} GiB",
        f"{_counted(plan.actors, 'actor')}, each on {_counted(plan.actor_gpus, 'GPU')}"
        f"{', the same as the learner in turn' if plan.shared else ''}: {plan.actor.weights:.0f} GiB of weights and "
        f"{plan.actor.kv_cache:.0f} GiB of key-value cache on each GPU ({plan.actor.tokens:,} tokens an actor)",
        f"host memory: {plan.learner_host_gib:.0f} GiB for each of the learner's machines, "
        f"{plan.actor_host_gib:.0f} GiB for an actor",
        f"a publication: {plan.publish_bytes / GIB:.1f} GiB to each actor, once a batch",
        *([publication.advice(plan.publish_bytes, gpu)] if sends_over_links else []),
        _duration(plan),
        f"Kubernetes: start from deploy/kubernetes/overlays/{plan.overlay}"
        if plan.overlay
        else "Kubernetes: pods cannot share GPUs; start all services in one container (`vision-sr1 train`)",
    ]
    console.print("\n".join(facts), highlight=False)
    console.print(f"\n{yaml.safe_dump(plan.settings(path), sort_keys=False)}", highlight=False, markup=False)
    console.print("Not measured, but worked out under these assumptions:", highlight=False)
    for assumption in (*estimates.ASSUMPTIONS, *division.ASSUMPTIONS, publication.ASSUMPTION):
        console.print(f"- {assumption}", highlight=False)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _ranks(number: int) -> str:
    return _counted(number, "rank")


def _duration(plan: Plan) -> str:
    if plan.shared:
        return (
            f"a batch: {plan.batch_s:.0f} s: {plan.generation_s:.0f} s of answers, then {plan.training_s:.0f} s of "
            f"learning, and {plan.turns_s:.0f} s in which memory and weights move"
        )
    return f"a batch: {plan.generation_s:.0f} s of answers beside {plan.training_s:.0f} s of learning"


def _memories(size: ModelSize, config: Config, gpu: Gpu, ranks: int) -> Table:
    columns = ("ZeRO", "weights", "gradients", "optimizer", "reference", "activations", "all", "fits")
    table = Table(*columns, box=None)
    table.title = f"GiB on each learner GPU, with {_ranks(ranks)}"
    for memory in all_memories(size, config, ranks):
        parts = (memory.weights, memory.gradients, memory.optimizer, memory.reference, memory.activations, memory.total)
        table.add_row(
            str(memory.zero_stage),
            *(f"{part:.1f}" for part in parts[:3]),
            "on CPU" if memory.placement == "cpu" else f"{memory.reference:.1f}",
            *(f"{part:.1f}" for part in parts[4:]),
            "yes" if memory.total <= usable_gib(gpu) else "no",
        )
    return table
