"""LoRA (arXiv 2106.09685): low-rank adapters learn while the policy's own weights stay as they are.

Everything outside the learner sees merged weights: actors and checkpoints get W + (alpha / rank) B A under W's name.
"""

import contextlib
import json
from collections.abc import Iterator

import peft
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from learner.distributed.gather import full_parameters, full_shape
from vision_sr1.config import ConfigError, LoraConfig

_ADAPTER = "default"  # peft's name for the only one
_BASE = ".base_layer"


def add_adapters(policy: torch.nn.Module, settings: LoraConfig) -> None:
    """Puts adapters beside the modules that match and freezes everything else.

    Raises:
        ConfigError: no module matches.
    """
    try:
        peft.inject_adapter_in_model(
            peft.LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=settings.target_modules), policy
        )
    except ValueError as error:
        raise ConfigError(f"learner.lora.target_modules {settings.target_modules!r}: {error}") from error


@contextlib.contextmanager
def without_adapters(policy: torch.nn.Module) -> Iterator[None]:
    """The policy as it was before its adapters."""
    layers = [module for module in policy.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer.enable_adapters(enabled=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(enabled=True)


def merged_shapes(policy: torch.nn.Module) -> dict[str, torch.Size]:
    """Names and full shapes of what `merged_parameters` gives; gathers nothing."""
    return {
        name.replace(_BASE, ""): full_shape(parameter)
        for name, parameter in policy.named_parameters()
        if not _is_adapters(name)
    }


def merged_parameters(policy: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name, full tensor) of every parameter of the model that the policy is, adapters merged; see `full_parameters`.

    Without adapters these are the policy's own parameters. A collective under ZeRO-3.
    """
    adapters = {name: (tensor.detach().float().clone()) for name, tensor in full_parameters(policy, _is_adapters)}
    scaling = {name: layer.scaling[_ADAPTER] for name, layer in policy.named_modules() if isinstance(layer, LoraLayer)}
    for name, base in full_parameters(policy, lambda name: not _is_adapters(name)):
        module = name.partition(_BASE)[0]
        if _BASE not in name or not name.endswith(".weight"):
            yield name.replace(_BASE, ""), base
            continue
        down, up = (adapters[f"{module}.lora_{side}.{_ADAPTER}.weight"] for side in ("A", "B"))
        yield name.replace(_BASE, ""), (base.detach().float() + scaling[module] * (up @ down)).to(base.dtype)


def adapter_parameters(policy: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name, full tensor) of the adapters, under the names of PEFT's files. A collective under ZeRO-3."""
    for name, tensor in full_parameters(policy, _is_adapters):
        yield adapter_name(name), tensor


def adapter_shapes(policy: torch.nn.Module) -> dict[str, torch.Size]:
    """Names and full shapes of what `adapter_parameters` gives; gathers nothing."""
    return {adapter_name(n): full_shape(p) for n, p in policy.named_parameters() if _is_adapters(n)}


def adapter_config(settings: LoraConfig, base: str) -> str:
    """What PEFT's adapter_config.json says."""
    return json.dumps(
        {
            "peft_type": "LORA",
            "base_model_name_or_path": base,
            "task_type": "CAUSAL_LM",
            "r": settings.rank,
            "lora_alpha": settings.alpha,
            "target_modules": settings.target_modules,
            "bias": "none",
        }
    )


def adapter_name(name: str) -> str:
    """A parameter's name in PEFT's files."""
    return f"base_model.model.{name.replace(f'.{_ADAPTER}.', '.')}"


def _is_adapters(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name
