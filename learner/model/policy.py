"""The policy under training: a Hugging Face model whose forward pass returns log-probabilities of chosen tokens."""

import types
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForImageTextToText

from learner.model.attention import PACKED, Layout, Trees
from learner.model.delta_net import use_packed_delta_nets
from learner.model.lora import add_adapters
from learner.model.packing import Pack
from learner.model.sequences import Sequence
from learner.model.window_attention import use_window_attention
from vision_sr1.config import Config, LoraConfig
from vision_sr1.families import family_of

ROUNDING = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}  # of log-probabilities, by the model's dtype
ATTENTION = {"text_config": PACKED, "vision_config": "sdpa"}


def load_policy(
    config: Config, path: str, *, forbidden_token_ids: list[int], temperature: float = 1.0
) -> torch.nn.Module:
    """Loads a checkpoint, a folder or a hub name, as `as_policy` makes a policy of it."""
    model = AutoModelForImageTextToText.from_pretrained(
        path, dtype=getattr(torch, config.model.dtype), attn_implementation=ATTENTION
    )
    return as_policy(config, model, forbidden_token_ids=forbidden_token_ids, temperature=temperature)


def as_policy(
    config: Config, model: Any, *, forbidden_token_ids: list[int], temperature: float = 1.0
) -> torch.nn.Module:
    """Binds the model's `forward` to token log-probabilities (see `token_logprobs`).

    The new methods are bound on the instance: subclassing the model would silently re-initialize its weights.

    Args:
        model: made or loaded with `attn_implementation=ATTENTION`.
        forbidden_token_ids: tokens that the actors never sample; they get no probability here either, so that both
            sides speak of the same distribution.
        temperature: that of the actors' sampling; logits are divided by it.
    """
    model.config.use_cache = False
    if config.learner.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.disable_input_require_grads()  # or a frozen vision tower would keep activations and be differentiated
    family = family_of(model.config.model_type)
    if family.windows:
        use_window_attention(model.model.get_submodule(family.windows))
    if family.linear_attention:
        use_packed_delta_nets(model, family.linear_attention)
    head = model.get_output_embeddings()
    head.forward = types.MethodType(_head_logprobs, head)
    head.chunk_tokens = config.learner.logits_chunk_tokens
    forbidden = torch.tensor(forbidden_token_ids, dtype=torch.long)
    head.register_buffer("forbidden_token_ids", forbidden, persistent=False)  # where the logits are
    head.temperature = temperature
    model.forward = types.MethodType(_packed_logprobs, model)
    policy: torch.nn.Module = model
    return policy


def choose_trainable(policy: Any, lora: LoraConfig, *, freeze_vision: bool) -> None:
    """Adapters learn where there are any; else all weights, or all but those of vision tower and projector."""
    if lora.rank:
        add_adapters(policy, lora)
    elif freeze_vision:
        for module in family_of(policy.config.model_type).vision_modules:
            policy.model.get_submodule(module).requires_grad_(False)


def layout_of(model: Any, trees: Trees, images: list[range]) -> Layout:
    """How tokens of a pack attend to one another in this model.

    Args:
        images: places of the tokens of each image.
    """
    family = family_of(model.config.model_type)
    return Layout.of(trees, images if family.sees_whole_images else (), family.language_sizes(model.config).window)


def rope_positions(model: Any, sequence: Sequence) -> Int[Tensor, "axes length"]:
    """Rotary positions of one sequence."""
    token_ids, is_image = torch.from_numpy(sequence.token_ids), torch.from_numpy(sequence.is_image)
    images = sequence.images.inputs if sequence.images else ()
    return family_of(model.config.model_type).positions(model, token_ids, is_image, images)


def token_logprobs(model: Any, pack: Pack, device: torch.device) -> Float[Tensor, " selected"]:
    """Log-probabilities of the pack's selected tokens, float32, in the pack's order.

    `model` is the policy or the DeepSpeed engine around it.
    """
    dtype = next(model.parameters()).dtype
    logprobs: Tensor = model(
        input_ids=pack.input_ids.to(device),
        position_ids=pack.position_ids.to(device),
        layout=pack.layout.to(device),
        images={
            name: tensor.to(device, dtype if tensor.is_floating_point() else None)
            for name, tensor in pack.images.items()
        },
        shown=pack.shown,
        predict_at=pack.predict_at.to(device),
        targets=pack.targets.to(device),
    )
    return logprobs


def _packed_logprobs(
    self: Any,
    input_ids: Int[Tensor, "1 tokens"],
    position_ids: Int[Tensor, "axes 1 tokens"],
    layout: Layout,
    images: dict[str, Tensor],
    shown: list[int],
    predict_at: Int[Tensor, " selected"],
    targets: Int[Tensor, " selected"],
) -> Float[Tensor, " selected"]:
    family = family_of(self.config.model_type)
    features = family.features(self, images, shown)
    positions = position_ids if len(position_ids) > 1 else position_ids[0]
    inputs = {"input_ids": input_ids, "position_ids": positions, "mm_encoder_outputs": {"image": features}}
    hidden = self.model(
        **inputs, attention_mask=family.attention_mask, use_cache=False, layout=layout
    ).last_hidden_state[0]
    return self.get_output_embeddings()(hidden[predict_at], targets)


def _head_logprobs(
    self: Any, hidden: Float[Tensor, "selected hidden"], targets: Int[Tensor, " selected"]
) -> Float[Tensor, " selected"]:
    """The output head fused with log-softmax: the logits of one chunk exist at a time, forward and backward.

    All chunks go through one call of the module, so that ZeRO-3 gathers its weight once and ranks may differ in
    their number of chunks.
    """

    logprobs = [
        checkpoint(_chunk_logprobs, self, h, t, use_reentrant=False)
        for h, t in zip(hidden.split(self.chunk_tokens), targets.split(self.chunk_tokens), strict=True)
    ]
    return torch.cat(logprobs)


def _chunk_logprobs(
    head: Any, hidden: Float[Tensor, "chunk hidden"], targets: Int[Tensor, " chunk"]
) -> Float[Tensor, " chunk"]:
    logits = torch.nn.functional.linear(hidden, head.weight, head.bias).float() / head.temperature
    logits.index_fill_(1, head.forbidden_token_ids, float("-inf"))
    return torch.gather(logits, 1, targets.unsqueeze(1)).squeeze(1) - torch.logsumexp(logits, dim=1)
