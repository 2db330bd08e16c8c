"""Model FLOPs: what learning from a batch asks of the hardware, whatever is recomputed or wasted besides (Chowdhery et
al., 2022)."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from vision_sr1.config import DependencyConfig
from vision_sr1.families import family_of

NO_DEPENDENCY = DependencyConfig()


class ModelFlops:
    """Counts the floating-point operations of learning from sequences, by the sizes of a policy.

    Args:
        forward_passes: of other policies over the same sequences, such as a reference.
        dependency: what is computed with masked images, of sequences with images alone.
    """

    def __init__(self, policy: Any, forward_passes: int, dependency: DependencyConfig = NO_DEPENDENCY) -> None:
        sizes = {name: _size(parameter) for name, parameter in policy.named_parameters()}
        frozen = sum(_size(p) for p in policy.parameters() if not p.requires_grad)
        backward = 1 if frozen > sum(sizes.values()) / 2 else 2  # with adapters no gradient of the weights themselves
        self._passes = 1 + backward + forward_passes
        self._masked_passes = int(dependency.is_used) + (1 + backward) * bool(dependency.kl_bonus)
        family = family_of(policy.config.model_type)
        self._image_token_id = policy.config.image_token_id
        vision = {name: size for name, size in sizes.items() if family.is_vision(name)}
        self._projector = sum(size for name, size in vision.items() if any(part in name for part in family.projectors))
        self._vision = sum(vision.values()) - self._projector
        self._vision_sizes = family.vision_sizes(policy.config)
        embeddings = ("embed_tokens", "lm_head")
        self._language = sum(sizes.values()) - sum(vision.values())
        self._language -= sum(size for name, size in sizes.items() if any(part in name for part in embeddings))
        self._head = _size(policy.get_output_embeddings().weight)
        attention = family.language_sizes(policy.config)
        self._attention = attention.attention_layers * attention.attention_width
        self._language += 3 * attention.state  # decayed, corrected and read at every token

    def __call__(self, trees: Iterable[tuple[Sequence[int], Sequence[int]]]) -> float:
        """Of prompts that are computed once, each given by its token ids and the lengths of its responses.

        Two operations for each weight and token (patch; token of a response in the output head), and two for each
        dimension, layer and pair of tokens in language attention, which is causal; four for each pair of patches where
        all of an image, or of a tile, attend to each other. Attention within windows is left out.
        """
        operations = 0
        for prompt, responses in trees:
            weights = self._language * (len(prompt) + sum(responses)) + self._head * sum(responses)
            pairs = len(prompt) ** 2 + sum(2 * len(prompt) * length + length**2 for length in responses)
            runs = groupby(prompt, key=lambda token: token == self._image_token_id)
            images = [self._of_image(sum(1 for _ in run)) for is_image, run in runs if is_image]
            passes = self._passes + (self._masked_passes if images else 0)
            operations += passes * (2 * (weights + self._attention * pairs) + sum(images))
        return float(operations)

    def _of_image(self, tokens: int) -> int:
        vision = self._vision_sizes
        patches = vision.patches_per_token * tokens
        together = vision.patches_per_token * (vision.tokens_per_tile or tokens)
        pairs = vision.full_attention_layers * vision.hidden * patches * together
        return 2 * (self._vision * patches + self._projector * tokens) + 4 * pairs


def _size(parameter: Any) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))  # ZeRO-3 keeps a part of it
