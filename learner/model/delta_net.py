"""Gated delta nets (arXiv 2412.06464) over packs of prefix trees: a layer of linear attention whose state no other
sequence sees.

A prompt begins with an empty state; each branch begins with its prompt's last state and, in the convolution, with its
prompt's last inputs. Prompts of about one length are the rows of a batch, and branches after them. Where a row is
filled up, the state decays by nothing and takes nothing in. transformers computes a pack as one sequence, outside of
CUDA without a word.
"""

import sys
import types
from collections import defaultdict
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import silu, softplus

from learner.model.attention import Layout, segments_of
from learner.model.attention_kernels import filled_up


def use_packed_delta_nets(model: torch.nn.Module, name: str) -> None:
    """Binds the forward pass below to every module of this name in a decoder layer."""
    for path, module in model.named_modules():
        if path.endswith(f".{name}"):
            module.forward = types.MethodType(_packed_delta_net, module)


def _packed_delta_net(
    self: Any, hidden_states: Float[Tensor, "1 tokens hidden"], *, layout: Layout, **_: object
) -> Float[Tensor, "1 tokens hidden"]:
    inputs = hidden_states[0]
    mixed = self.in_proj_qkv(inputs)
    update = self.in_proj_b(inputs).sigmoid()
    decay = -self.A_log.float().exp() * softplus(self.in_proj_a(inputs).float() + self.dt_bias)
    trunks: list[range] = []
    branches: list[range] = []
    parents: list[int] = []  # of each branch, the index of its trunk
    for trunk, continuations in segments_of(layout.trees):
        grown = [places for places in continuations if places]
        branches += grown
        parents += [len(trunks)] * len(grown)
        trunks.append(trunk)
    empty = mixed.new_zeros(1, self.conv_kernel_size - 1, mixed.shape[1])
    places, outs = [], []
    ends: dict[int, Tensor] = {}
    states: dict[int, Tensor] = {}
    for group in _alike(trunks):
        segments, earlier = [trunks[index] for index in group], empty.expand(len(group), -1, -1)
        at, out, group_ends, group_states = _rows(self, mixed, update, decay, segments, earlier, None)
        places.append(at)
        outs.append(out)
        ends |= dict(zip(group, group_ends, strict=True))
        states |= dict(zip(group, group_states, strict=True))
    for group in _alike(branches):
        segments, begun = [branches[index] for index in group], [parents[index] for index in group]
        earlier, before = (torch.stack([found[parent] for parent in begun]) for found in (ends, states))
        at, out, _end, _state = _rows(self, mixed, update, decay, segments, earlier, before)
        places.append(at)
        outs.append(out)
    order = torch.cat(places).argsort()
    gate = self.in_proj_z(inputs).reshape(-1, self.head_v_dim)
    normed = self.norm(torch.cat(outs)[order].reshape(-1, self.head_v_dim), gate)
    projected: Tensor = self.out_proj(normed.reshape(1, len(inputs), -1))
    return projected


def _alike(segments: list[range]) -> list[list[int]]:
    """Indices of those whose lengths are of one power of two, so that filling up at most doubles them."""
    by_size: dict[int, list[int]] = defaultdict(list)
    for index, segment in enumerate(segments):
        by_size[len(segment).bit_length()].append(index)
    return list(by_size.values())


def _rows(
    net: Any,
    mixed: Float[Tensor, "tokens channels"],
    update: Float[Tensor, "tokens heads"],
    decay: Float[Tensor, "tokens heads"],
    segments: list[range],
    earlier: Float[Tensor, "segments before channels"],
    states: Float[Tensor, "segments heads key value"] | None,
) -> tuple[
    Int[Tensor, " places"],
    Float[Tensor, "places heads value"],
    Float[Tensor, "segments before channels"],
    Float[Tensor, "segments heads key value"],
]:
    """Segments as the rows of a batch: places, outputs, the convolution's last inputs, and the last states.

    Args:
        earlier: inputs of the convolution before each segment.
        states: before each segment; None: empty ones.
    """
    before = earlier.shape[1]
    places, inside = (tensor.to(mixed.device) for tensor in filled_up(segments))
    rows = torch.cat([earlier, mixed[places] * inside.unsqueeze(-1)], dim=1)
    # Called as a module, so that ZeRO-3 gathers its weight; it fills up in front, where `earlier` stands already.
    convolved = silu(net.conv1d(rows.transpose(1, 2))[..., before : before + places.shape[1]]).transpose(1, 2)
    query, key, value = convolved.split([net.key_dim, net.key_dim, net.value_dim], dim=-1)
    shared = net.num_v_heads // net.num_k_heads
    delta_rule = sys.modules[type(net).__module__].torch_chunk_gated_delta_rule
    out, last = delta_rule(
        query.unflatten(-1, (-1, net.head_k_dim)).repeat_interleave(shared, dim=2),
        key.unflatten(-1, (-1, net.head_k_dim)).repeat_interleave(shared, dim=2),
        value.unflatten(-1, (-1, net.head_v_dim)),
        g=decay[places] * inside.unsqueeze(-1),
        beta=update[places] * inside.unsqueeze(-1),
        initial_state=states,
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
    )
    offsets = inside.sum(dim=1, keepdim=True) + torch.arange(before, device=mixed.device)
    ends = rows[torch.arange(len(segments), device=mixed.device).unsqueeze(1), offsets]
    return places[inside], out[inside], ends, last
