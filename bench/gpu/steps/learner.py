"""Speed, memory and host synchronizations of the learner on a 3B model cut to 12 layers, with real lengths."""

import torch

from bench.gpu.findings import Bench, Findings
from bench.gpu.models import sizes
from bench.learner_gpu import Sizes, measure
from vision_sr1.runtime.gpus import known_gpu

PLACES = 8  # that are named


def run(bench: Bench, findings: Findings) -> None:
    """Figures alone: it is right where the steps end, and their peak fits."""
    options = ["model.dtype=bfloat16", "learner.zero_stage=2", "learner.gradient_checkpointing=true"]
    if bench.is_cuda:
        step = Sizes(prompts=4)
        options += ["learner.micro_batch_tokens=16384"]
    else:
        step = Sizes(prompts=2, group_size=2, image_side=112, response_tokens=16, steps=1)
        options += ["model.min_pixels=3136", "model.max_pixels=12544"]
    measured = measure(*sizes(bench), step, options)
    findings.figure("prompts x answers", f"{step.prompts} x {step.group_size}, {step.response_tokens} tokens each")
    findings.figure("tokens/s", measured.tokens_per_second)
    findings.figure("TFLOP/s of the model", measured.model_tflops)
    if not bench.is_cuda:
        findings.figure("MFU", None)
        findings.figure("peak memory, GiB", None)
        findings.figure("host synchronizations a step", None)
        return
    gpu = known_gpu(torch.cuda.get_device_name())
    findings.figure("MFU", None if gpu is None else measured.model_tflops / gpu.tflops)
    findings.figure("peak memory, GiB", measured.peak_gib)
    findings.figure("host synchronizations a step", measured.waits.total())
    findings.figure("most of them", [f"{count} x {place}" for place, count in measured.waits.most_common(PLACES)])
