"""What an actor that wakes has of image features."""

from importlib.util import find_spec
from pathlib import Path

import torch

from actors.vllm.image_features import DEEPSTACK, clear_image_features


class Model(torch.nn.Module):
    """As vLLM's has it: a list, and no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(2, 2)
        setattr(self, DEEPSTACK, [torch.full((3, 2), float("nan")) for _ in range(2)])


def test_none_is_left_of_the_memory_that_others_had():
    model = Model()
    features, head = getattr(model, DEEPSTACK), model.head.weight.clone()
    clear_image_features(torch.nn.ModuleList([model, torch.nn.Linear(1, 1)]))
    assert all(torch.equal(kept, torch.zeros(3, 2)) for kept in features), "the same tensors, empty"
    assert torch.equal(model.head.weight, head)


def test_the_list_has_this_name():
    found = find_spec("vllm")
    assert found is not None
    assert found.origin is not None
    source = Path(found.origin).parent / "model_executor" / "models" / "qwen3_vl.py"
    assert f"self.{DEEPSTACK} = [" in source.read_text()
