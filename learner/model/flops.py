"""Model FLOPs: what learning from a batch asks of the hardware, whatever is recomputed or wasted besides (Chowdhery et
al., 2022)."""

from collections.abc import Iterable, Sequence
from typing import Any

PATCHES_PER_TOKEN = 4  # the vision tower's, which its projector merges


class ModelFlops:
    """Counts the floating-point operations of learning from sequences, by the sizes of a policy.

    Args:
        forward_passes: of other policies over the same sequences, such as a reference.
    """

    def __init__(self, policy: Any, forward_passes: int) -> None:
        sizes = {name: _size(parameter) for name, parameter in policy.named_parameters()}
        frozen = sum(_size(p) for p in policy.parameters() if not p.requires_grad)
        text = policy.config.get_text_config()
        backward = 1 if frozen > sum(sizes.values()) / 2 else 2  # with adapters no gradient of the weights themselves
        self._passes = 1 + backward + forward_passes
        self._image_token_id = policy.config.image_token_id
        self._vision = sum(size for name, size in sizes.items() if ".visual." in name)
        embeddings = ("embed_tokens", "lm_head")
        self._language = sum(sizes.values()) - self._vision
        self._language -= sum(size for name, size in sizes.items() if any(part in name for part in embeddings))
        self._head = _size(policy.get_output_embeddings().weight)
        self._attention = text.num_hidden_layers * text.hidden_size

    def __call__(self, trees: Iterable[tuple[Sequence[int], Sequence[int]]]) -> float:
        """Of prompts that are computed once, each given by its token ids and the lengths of its responses.

        Two operations for each weight and token (patch; token of a response in the output head), and two for each
        dimension, layer and pair of tokens in language attention, which is causal. Vision attention is within windows
        and left out.
        """
        operations = 0
        for prompt, responses in trees:
            patches = PATCHES_PER_TOKEN * sum(token == self._image_token_id for token in prompt)
            weights = self._language * (len(prompt) + sum(responses)) + self._vision * patches
            weights += self._head * sum(responses)
            pairs = len(prompt) ** 2 + sum(2 * len(prompt) * length + length**2 for length in responses)
            operations += 2 * (weights + self._attention * pairs)
        return float(self._passes * operations)


def _size(parameter: Any) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))  # ZeRO-3 keeps a part of it
