"""Activation memory of a policy's forward and backward pass at real sizes: traced on meta tensors, nothing is computed.

Meta tensors have shapes and storages without memory. On them the policy takes the kernels that it takes on CUDA, so
that what the trace sees is what PyTorch would allocate there. What kernels allocate inside themselves is not seen.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from transformers import AutoModelForImageTextToText

from learner.model.attention import Trees
from learner.model.policy import ATTENTION, as_policy, choose_trainable, layout_of
from vision_sr1.config import Config

META = torch.device("meta")
INDEXED = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of meta storages that operations make, from the first use to the end of their last reference.

    Tensors of the CPU that meet meta tensors are moved: positions and window indices, which a learner has on its GPU.

    Args:
        held: storages of these are not counted.

    Attributes:
        live: bytes now.
        peak: the most at one time.
    """

    def __init__(self, held: list[Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in held}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._to_copy.default and not args[0].is_meta:  # its values may be needed
            return func(*args, **{**(kwargs or {}), "device": args[0].device})
        if func in INDEXED:
            args = (args[0], [place for index in args[1] for place in _places(index)], *args[2:])
        given = [tensor for arg in args for tensor in (arg if isinstance(arg, list | tuple) else (arg,))]
        places = {tensor.is_meta for tensor in given if isinstance(tensor, Tensor)}
        if len(places) == 2:
            args = tree_map_only(Tensor, lambda t: self._moved(t) if t.ndim else t, args)
        results = func(*args, **(kwargs or {}))
        for result in results if isinstance(results, tuple | list) else (results,):
            if isinstance(result, Tensor) and result.is_meta:
                self._count(result)
        return results

    def _moved(self, tensor: Tensor) -> Tensor:
        if tensor.is_meta:
            return tensor
        moved = tensor.to(META)
        self._count(moved)
        return moved

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.remove(key)
        self.live -= size


def _places(index: Tensor | None) -> tuple[Tensor | None, ...]:
    """A mask as positions, as CUDA takes it: how many there are is not known of a meta tensor."""
    if index is None or index.dtype != torch.bool:
        return (index,)
    return tuple(index.nonzero(as_tuple=True))


def traced_policy(config: Config, architecture: Any) -> Any:
    """The policy as the learner trains it, without weights."""
    with META:
        model = AutoModelForImageTextToText.from_config(
            architecture, dtype=getattr(torch, config.model.dtype), attn_implementation=ATTENTION
        )
        policy: Any = as_policy(config, model, forbidden_token_ids=[0])
        choose_trainable(policy, config.learner.lora, freeze_vision=config.learner.freeze_vision)
    return policy.to(model.dtype).train()  # as DeepSpeed does with adapters, which are made in float32


def traced_bytes(policy: Any, inputs: dict[str, Any]) -> int:
    """Peak of what forward and backward pass need beyond weights and the gradients that the engine keeps.

    A weight's gradient counts from its computation until it is complete, when the engine takes it over.
    """
    taken = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    hooks = [parameter.register_post_accumulate_grad_hook(_drop) for parameter in taken]
    with LiveBytes([*policy.parameters(), *policy.buffers()]) as memory:
        logprobs, _ = policy(**inputs, entropies="detached")
        logprobs.sum().backward()
    for hook in hooks:
        hook.remove()
    return memory.peak


def _drop(parameter: Tensor) -> None:
    parameter.grad = None


def image_pack(config: Config, policy: Any) -> dict[str, Any]:
    """Inputs of `learner.micro_batch_tokens`: groups with an image each, as large as they may be together, and
    responses of `learner.logits_chunk_tokens` in all."""
    settings = config.learner
    vision = policy.config.vision_config
    side = vision.patch_size * vision.spatial_merge_size
    selected = settings.logits_chunk_tokens
    most = config.model.max_pixels // side**2
    prompts = -(-(settings.micro_batch_tokens - selected) // most)
    rows = 64
    columns = (settings.micro_batch_tokens - selected) // prompts // rows
    branch = selected // prompts // config.sampling.group_size
    trees = [(rows * columns, [branch] * config.sampling.group_size)] * prompts
    grids = torch.tensor([[1, rows * vision.spatial_merge_size, columns * vision.spatial_merge_size]] * prompts)
    return _inputs(policy, trees, grids, lambda place, prefix: place < prefix)


def response_pack(config: Config, policy: Any) -> dict[str, Any]:
    """Inputs of `learner.micro_batch_tokens`, all of responses but for one image of one token."""
    merge = policy.config.vision_config.spatial_merge_size
    size = config.sampling.group_size
    trees = [(2, [config.learner.micro_batch_tokens // size] * size)]
    return _inputs(policy, trees, torch.tensor([[1, merge, merge]]), lambda place, _: place < 1)


def _inputs(policy: Any, trees: Trees, grids: Tensor, is_image: Callable[[int, int], bool]) -> dict[str, Any]:
    vision = policy.config.vision_config
    patch = 3 * vision.temporal_patch_size * vision.patch_size**2
    ids: list[int] = []
    images: list[range] = []
    for prefix, branches in trees:
        inside = [is_image(place, prefix) for place in range(prefix)]
        images.append(range(len(ids), len(ids) + sum(inside)))
        ids += [policy.config.image_token_id if image else 1 for image in inside] + [1] * sum(branches)
    selected = torch.empty(sum(sum(branches) for _, branches in trees), dtype=torch.long, device=META)
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.empty(3, 1, len(ids), dtype=torch.long, device=META),
        "layout": layout_of(policy, trees, images).to(META),
        "images": {
            "pixel_values": torch.empty(int(grids.prod(1).sum()), patch, dtype=torch.bfloat16, device=META),
            "image_grid_thw": grids,
        },
        "shown": list(range(len(grids))),
        "predict_at": selected,
        "targets": selected,
    }
