"""The policy as others load it: a folder in Hugging Face format."""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from learner.distributed.ranks import is_main
from learner.model.lora import adapter_config
from learner.model.snapshots import export_snapshot
from vision_sr1.config import LoraConfig


def export_policy(model: Any, processor: Any, folder: Path) -> None:
    """Writes weights, configuration, tokenizer and processor so that `from_pretrained` loads them.

    Called on every rank; rank 0 writes.
    """
    weights = export_snapshot(model)
    if is_main():
        write_export(model, processor, weights, folder)


def write_export(model: Any, processor: Any, weights: dict[str, Tensor], folder: Path) -> None:
    """Writes a snapshot of `model`, whose own weights may have changed since."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, state_dict=weights)
    processor.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)


def write_adapter(settings: LoraConfig, base: str, weights: dict[str, Tensor], folder: Path) -> None:
    """Writes a snapshot of the adapters as PEFT and vLLM load it beside the model that they were trained on."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(adapter_config(settings, base), encoding="utf-8")
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
