"""A plan as people read it, and as the YAML that carries it out."""

import yaml
from rich.console import Console
from rich.table import Table

from vision_sr1.cli.planning import publication
from vision_sr1.cli.planning.estimates import ASSUMPTIONS, GIB, ModelSize, all_memories, make_plan, usable_gib
from vision_sr1.config import Config
from vision_sr1.runtime.gpus import Gpu


def print_plan(console: Console, path: str, size: ModelSize, config: Config, gpu: Gpu, gpus: int) -> None:
    """Prints memory by ZeRO stage and offload, then the split, then its YAML.

    Raises:
        ConfigError: no split fits; what was found until then is printed.
    """
    console.print(f"{path}: {size.parameters / 1e9:.2f} billion parameters", highlight=False)
    shown = max(1, gpus - 1)
    console.print(_memories(size, config, gpu, shown))
    plan = make_plan(size, config, gpu, gpus)
    facts = [
        f"learner: {plan.learner_gpus} GPUs, {plan.memory.total:.0f} of {usable_gib(gpu):.0f} GiB each",
        f"actors: {plan.actors} of {plan.tensor_parallel} GPUs; {plan.actor.weights:.0f} GiB of weights and "
        f"{plan.actor.kv_cache:.0f} GiB of key-value cache each ({plan.actor.tokens:,} tokens an actor)",
        f"host memory: {plan.learner_host_gib:.0f} GiB for each of the learner's machines, "
        f"{plan.actor_host_gib:.0f} GiB for an actor",
        f"a publication: {plan.publish_bytes / GIB:.1f} GiB to each actor, once a batch",
        *([] if config.learner.lora.goes_to_actors else [publication.advice(plan.publish_bytes, gpu)]),
        f"a batch: {plan.generation_s:.0f} s of answers beside {plan.training_s:.0f} s of learning",
        f"Kubernetes: start from deploy/kubernetes/overlays/{plan.overlay}",
    ]
    console.print("\n".join(facts), highlight=False)
    console.print(f"\n{yaml.safe_dump(plan.settings(path), sort_keys=False)}", highlight=False, markup=False)
    console.print("Not measured, but worked out under these assumptions:", highlight=False)
    for assumption in (*ASSUMPTIONS, publication.ASSUMPTION):
        console.print(f"- {assumption}", highlight=False)


def _memories(size: ModelSize, config: Config, gpu: Gpu, ranks: int) -> Table:
    columns = ("ZeRO", "weights", "gradients", "optimizer", "reference", "activations", "all", "fits")
    table = Table(*columns, box=None)
    table.title = f"GiB of each of {ranks} learner ranks"
    for memory in all_memories(size, config, ranks):
        parts = (memory.weights, memory.gradients, memory.optimizer, memory.reference, memory.activations, memory.total)
        table.add_row(
            str(memory.zero_stage),
            *(f"{part:.1f}" for part in parts[:3]),
            "on CPU" if memory.reference_offload else f"{memory.reference:.1f}",
            *(f"{part:.1f}" for part in parts[4:]),
            "yes" if memory.total <= usable_gib(gpu) else "no",
        )
    return table
