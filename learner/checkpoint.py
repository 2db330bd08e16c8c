"""Writing the policy: in Hugging Face format for others, and with the trainer's state for resuming."""

import os
from pathlib import Path
from typing import Any

import torch

from learner.engine import is_main
from learner.shards import full_parameters


def export_policy(engine: Any, processor: Any, folder: Path) -> None:
    """Writes weights, configuration, tokenizer and processor so that `from_pretrained` loads them.

    Called on every rank; rank 0 writes.
    """
    model = engine.module
    state = {name: tensor.detach().cpu().clone() for name, tensor in full_parameters(engine) if is_main()}
    if not is_main():
        return
    folder.mkdir(parents=True, exist_ok=True)
    state.update({name: buffer.cpu() for name, buffer in model.state_dict().items() if name not in state})
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    model.save_pretrained(folder, state_dict=state)
    processor.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):
        os.chmod(file, 0o644)
