"""The policy as others load it: a folder in Hugging Face format."""

from pathlib import Path
from typing import Any

from learner.engine import is_main
from learner.lora import merged_parameters


def export_policy(model: Any, processor: Any, folder: Path) -> None:
    """Writes weights, configuration, tokenizer and processor so that `from_pretrained` loads them.

    Called on every rank; rank 0 writes.
    """
    main = is_main()
    state = {}
    for name, tensor in merged_parameters(model):  # a collective under ZeRO-3: every rank iterates
        if main:
            state[name] = tensor.detach().cpu().clone()
    if not main:
        return
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, state_dict=state)
    processor.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)
