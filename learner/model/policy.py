"""The policy under training: a Hugging Face model whose forward pass returns log-probabilities of chosen tokens."""

import types
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from learner.model.attention import PACKED, Layout, Trees
from learner.model.delta_net import use_packed_delta_nets
from learner.model.lora import add_adapters
from learner.model.packing import Pack
from learner.model.sequences import Sequence
from learner.model.window_attention import use_window_attention
from vision_sr1.config import Config, LoraConfig
from vision_sr1.families import family_of
from vision_sr1.models.load import load_model

ROUNDING = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}  # of log-probabilities, by the model's dtype
ATTENTION = {"text_config": PACKED, "vision_config": "sdpa"}
Entropies = Literal["none", "detached", "differentiable"]


def load_policy(
    config: Config, path: str, *, forbidden_token_ids: list[int], temperature: float = 1.0
) -> torch.nn.Module:
    """Loads a checkpoint, a folder or a hub name, as `as_policy` makes a policy of it."""
    model = load_model(path, dtype=getattr(torch, config.model.dtype), attn_implementation=ATTENTION)
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
    logprobs: Tensor = _forward(model, pack, device)
    return logprobs


def token_logprobs_and_entropies(
    model: Any, pack: Pack, device: torch.device, *, differentiable: bool = False
) -> tuple[Float[Tensor, " selected"], Float[Tensor, " selected"]]:
    """As `token_logprobs`, and the entropy of the distribution that each token was drawn from, in nats, float32.

    Both are of one forward pass, over the same logits.

    Args:
        differentiable: whether entropies are connected to the weights; backward then keeps more of a chunk in memory.
    """
    logprobs, entropies = _forward(model, pack, device, entropies="differentiable" if differentiable else "detached")
    return logprobs, entropies


def _forward(model: Any, pack: Pack, device: torch.device, entropies: Entropies = "none") -> Any:
    pack = pack.to(device, next(model.parameters()).dtype)
    return model(
        input_ids=pack.input_ids,
        position_ids=pack.position_ids,
        layout=pack.layout,
        images=pack.images,
        shown=pack.shown,
        predict_at=pack.predict_at,
        targets=pack.targets,
        entropies=entropies,
    )


def _packed_logprobs(
    self: Any,
    input_ids: Int[Tensor, "1 tokens"],
    position_ids: Int[Tensor, "axes 1 tokens"],
    layout: Layout,
    images: dict[str, Tensor],
    shown: list[int],
    predict_at: Int[Tensor, " selected"],
    targets: Int[Tensor, " selected"],
    entropies: Entropies,
) -> Float[Tensor, " selected"] | tuple[Float[Tensor, " selected"], Float[Tensor, " selected"]]:
    family = family_of(self.config.model_type)
    features = family.features(self, images, shown)
    positions = position_ids if len(position_ids) > 1 else position_ids[0]
    inputs = {"input_ids": input_ids, "position_ids": positions, "mm_encoder_outputs": {"image": features}}
    hidden = self.model(
        **inputs, attention_mask=family.attention_mask, use_cache=False, layout=layout
    ).last_hidden_state[0]
    return self.get_output_embeddings()(hidden[predict_at], targets, entropies)


def _head_logprobs(
    self: Any, hidden: Float[Tensor, "selected hidden"], targets: Int[Tensor, " selected"], entropies: Entropies
) -> Float[Tensor, " selected"] | tuple[Float[Tensor, " selected"], Float[Tensor, " selected"]]:
    """The output head fused with log-softmax: the logits of one chunk exist at a time, forward and backward.

    All chunks go through one call of the module, so that ZeRO-3 gathers its weight once and ranks may differ in
    their number of chunks.
    """
    chunks = [
        checkpoint(_chunk_logprobs, self, h, t, entropies, use_reentrant=False)
        for h, t in zip(hidden.split(self.chunk_tokens), targets.split(self.chunk_tokens), strict=True)
    ]
    logprobs = torch.cat([chunk[0] for chunk in chunks])
    return logprobs if entropies == "none" else (logprobs, torch.cat([chunk[1] for chunk in chunks]))


def _chunk_logprobs(
    head: Any, hidden: Float[Tensor, "chunk hidden"], targets: Int[Tensor, " chunk"], entropies: Entropies
) -> tuple[Float[Tensor, " chunk"], ...]:
    """Log-probabilities of the targets, and entropies where they are asked for."""
    logits = torch.nn.functional.linear(hidden, head.weight, head.bias).float() / head.temperature
    logits.index_fill_(1, head.forbidden_token_ids, float("-inf"))
    every = torch.log_softmax(logits, dim=1)
    del logits  # the backward pass needs `every` alone
    logprobs = torch.gather(every, 1, targets.unsqueeze(1)).squeeze(1)
    if entropies == "none":
        return (logprobs,)
    # Last, so that a backward pass which needs no entropies does not compute them again (checkpoint's early stop).
    if entropies == "differentiable" and torch.is_grad_enabled():
        terms = every.exp() * every.index_fill(1, head.forbidden_token_ids, 0.0)  # 0 · log 0 = 0
    else:
        terms = every.detach().exp().mul_(every.detach()).index_fill_(1, head.forbidden_token_ids, 0.0)
    return logprobs, -terms.sum(1)
