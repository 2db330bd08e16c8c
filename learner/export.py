"""The policy as others load it: a folder in Hugging Face format."""

from pathlib import Path
from typing import Any

from torch import Tensor

from learner.engine import is_main
from learner.lora import merged_parameters


def export_policy(model: Any, processor: Any, folder: Path) -> None:
    """Writes weights, configuration, tokenizer and processor so that `from_pretrained` loads them.

    Called on every rank; rank 0 writes.
    """
    weights = export_snapshot(model)
    if is_main():
        write_export(model, processor, weights, folder)


def export_snapshot(model: Any) -> dict[str, Tensor]:
    """All weights in CPU memory, adapters merged, on rank 0; elsewhere nothing. A collective."""
    main = is_main()
    weights = {}
    for name, tensor in merged_parameters(model):  # gathers under ZeRO-3: every rank iterates
        if main:
            weights[name] = tensor.detach().cpu().clone()
    return weights


def write_export(model: Any, processor: Any, weights: dict[str, Tensor], folder: Path) -> None:
    """Writes a snapshot of `model`, whose own weights may have changed since."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, state_dict=weights)
    processor.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)
