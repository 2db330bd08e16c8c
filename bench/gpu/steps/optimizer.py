"""Memory: what an optimizer step takes beyond what is held between steps, and whether that grows."""

import gc

import torch

from bench.gpu.findings import Bench, Findings
from bench.gpu.models import sizes
from bench.learner_gpu import Sizes, make_learner

WARM_UP, STEPS = 2, 5


def run(bench: Bench, findings: Findings) -> None:
    """The same batch again and again, of several micro-batches."""
    options = ["model.dtype=bfloat16", "learner.zero_stage=2", "learner.gradient_checkpointing=true"]
    if bench.is_cuda:
        step = Sizes(prompts=2, group_size=4, response_tokens=256)
        options += ["learner.micro_batch_tokens=2048"]
    else:
        step = Sizes(prompts=2, group_size=2, image_side=112, response_tokens=16)
        options += ["model.min_pixels=3136", "model.max_pixels=12544", "learner.micro_batch_tokens=64"]
    learner = make_learner(*sizes(bench), step, options)
    engine = learner.engine
    parameters = sum(parameter.numel() for parameter in learner.policy.parameters())
    stepped = getattr(engine.optimizer, "optimizer", engine.optimizer)
    findings.figure("parameters", parameters)
    findings.figure("optimizer", f"{type(stepped).__name__}, fused: {bool(stepped.defaults.get('fused'))}")
    findings.figure("gradients are accumulated in", str(engine.get_data_types()[1]))
    taken: list[int] = []
    take_step = engine.step

    def watched() -> None:
        before = _allocated(bench)
        if bench.is_cuda:
            torch.cuda.reset_peak_memory_stats()
        take_step()
        if bench.is_cuda:
            taken.append(torch.cuda.max_memory_allocated() - before)

    engine.step = watched
    batch = learner.groups(step, seed=0)
    for _ in range(WARM_UP):
        learner.learn(batch)
    first = _allocated(bench)
    for _ in range(STEPS):
        learner.learn(batch)
    findings.figure("held between steps, GiB", first / 2**30)
    findings.within("leak_mib", f"growth in {STEPS} steps, MiB", (_allocated(bench) - first) / 2**20)
    if taken:
        findings.within("optimizer_bytes", "taken by an optimizer step, bytes a parameter", taken[-1] / parameters)
    else:
        findings.figure("taken by an optimizer step, bytes a parameter", None)
    torch.distributed.destroy_process_group()


def _allocated(bench: Bench) -> int:
    """Bytes of tensors: those of the GPU, or all that Python knows of."""
    gc.collect()
    if bench.is_cuda:
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()
    tensors = (found for found in gc.get_objects() if issubclass(type(found), torch.Tensor))
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())
