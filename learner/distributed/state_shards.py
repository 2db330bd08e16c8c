"""Weights and optimizer state as shards of parameters: checkpoints know no number of ranks and no ZeRO stage.

A shard is a run of elements of a flattened parameter, in float32: of its weight as the optimizer has it, or of one of
AdamW's moments. Each rank saves those it holds, and reads those it is to hold from wherever they were saved.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from learner.distributed.gather import full_shape, write_parameters

WEIGHT = "weight"
MOMENTS = ("exp_avg", "exp_avg_sq")
_STEPS, _RNG = "optimizer/steps", "rng"


class StateShardsError(RuntimeError):
    """Saved shards do not form this model's state; the message says what is missing."""


@dataclass(frozen=True)
class Shard:
    """Elements [start, start + len) of a parameter or of one of its moments; `values` is the optimizer's own memory."""

    kind: str
    name: str
    start: int
    values: Float[Tensor, " elements"]

    @property
    def key(self) -> str:
        """Its name in a file."""
        return f"{self.kind}/{self.start}/{self.name}"


def own_shards(engine: Any) -> Iterator[Shard]:
    """The shards of trained parameters that this rank holds. Where all ranks hold everything, those fall to rank 0."""
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad:
            yield from _shards(engine, name, parameter)


def optimizer_tensors(engine: Any) -> Iterator[Tensor]:
    """What the optimizer holds on this rank: float32 weights, moments, and buffers of gradients."""
    yield from _stepped_tensors(engine)
    for state in _states(engine).values():
        yield from (state[kind] for kind in MOMENTS if kind in state)
    yield from getattr(engine.optimizer, "fp32_groups_gradients_flat", ())  # ZeRO-1 in bfloat16
    if (gradients := getattr(engine.optimizer, "grad_partitions_flat_buffer", None)) is not None:  # ZeRO-3
        yield gradients


def snapshot(engine: Any, shards: Iterable[Shard] | None = None) -> dict[str, Tensor]:
    """A copy of this rank's shards in CPU memory, ready to be written while training goes on.

    Args:
        shards: default: those that the engine holds now.
    """
    held = own_shards(engine) if shards is None else shards
    copies = {shard.key: shard.values.detach().to("cpu", copy=True) for shard in held}
    if dist.get_rank() == 0:
        copies[_STEPS] = torch.tensor(_steps(engine))
        copies[_RNG] = torch.get_rng_state()
    return copies


def write_shards(shards: dict[str, Tensor], folder: Path) -> Path:
    """Writes a rank's snapshot into the folder that all ranks share, as a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"rank-{dist.get_rank():05d}.safetensors"
    save_file(shards, path)
    return path


def restore(engine: Any, folder: Path) -> None:
    """Takes up weights, optimizer state and random number generator from a folder that `write_shards` filled.

    Raises:
        StateShardsError: the folder lacks elements of a parameter.
    """
    saved = _Saved(folder)
    # Models in lower precision hold a rounded copy of the optimizer's weights.
    trained = [(n, p) for n, p in engine.module.named_parameters() if p.requires_grad]
    write_parameters(
        ((name, saved.read(WEIGHT, name, 0, full_shape(p).numel()).view(full_shape(p))) for name, p in trained),
        [parameter for _, parameter in trained],
    )
    make_moments(engine)
    with torch.no_grad():
        for name, parameter in trained:
            for shard in _shards(engine, name, parameter, every_rank=True):
                shard.values.copy_(saved.read(shard.kind, name, shard.start, shard.values.numel()))
    steps = saved.whole(_STEPS)
    for state in _states(engine).values():
        state["step"] = steps.to(state[MOMENTS[0]].device, torch.float32, copy=True)
    torch.set_rng_state(saved.whole(_RNG))


def _shards(engine: Any, name: str, parameter: Any, *, every_rank: bool = False) -> Iterator[Shard]:
    """The shards of a parameter, a tensor with attributes of DeepSpeed's."""
    if hasattr(parameter, "ds_id"):  # ZeRO-3: equal parts, the last one padded
        optimizer = engine.optimizer
        rank = dist.get_rank(parameter.ds_process_group)
        for kind in (WEIGHT, *MOMENTS):
            part, _ = optimizer._get_fp32_opt_state_partition(
                parameter, release_swap_buffers=False, optim_state_key=_deepspeed_key(kind)
            )
            start = rank * part.numel()
            held = min(part.numel(), parameter.ds_numel - start)
            if held > 0:
                yield Shard(kind, name, start, part.flatten()[:held])
    elif hasattr(parameter, "_hp_mapping"):  # ZeRO-1 and 2: a part of all parameters laid end to end
        if parameter._hp_mapping is not None:
            start = parameter._hp_mapping.lp_fragment_address.start
            for kind in (WEIGHT, *MOMENTS):
                yield Shard(kind, name, start, parameter._hp_mapping.get_hp_fragment(_deepspeed_key(kind)))
    elif every_rank or dist.get_rank() == 0:
        stepped = _stepped(engine, parameter)
        yield Shard(WEIGHT, name, 0, stepped.data.view(-1))
        for kind in MOMENTS:
            yield Shard(kind, name, 0, _states(engine)[stepped][kind].view(-1))


def _stepped(engine: Any, parameter: Tensor) -> Tensor:
    """What AdamW steps in an unsharded parameter's place: in lower precision, a copy in float32."""
    groups = zip(
        getattr(engine.optimizer, "fp16_groups", ()), getattr(engine.optimizer, "fp32_groups", ()), strict=True
    )
    copies = (copy for low, high in groups for rounded, copy in zip(low, high, strict=True) if rounded is parameter)
    return next(copies, parameter)


def _deepspeed_key(kind: str) -> str | None:
    return None if kind == WEIGHT else kind


def _states(engine: Any) -> dict[Any, dict[str, Tensor]]:
    """AdamW's state of each tensor that it steps."""
    optimizer = engine.optimizer
    states: dict[Any, dict[str, Tensor]] = getattr(optimizer, "optimizer", optimizer).state
    return states


def _steps(engine: Any) -> float:
    return float(next((state["step"] for state in _states(engine).values()), torch.tensor(0.0)))


def _stepped_tensors(engine: Any) -> list[Tensor]:
    """What AdamW steps on this rank."""
    stepped = getattr(engine.optimizer, "optimizer", engine.optimizer)
    grouped = [parameter for group in stepped.param_groups for parameter in group["params"]]
    tensors: list[Tensor] = getattr(engine.optimizer, "fp32_partitioned_groups_flat", grouped)  # under ZeRO-3 those
    return tensors


def make_moments(engine: Any) -> None:
    """Has AdamW hold moments before its first step, and DeepSpeed know where they are."""
    stepped = getattr(engine.optimizer, "optimizer", engine.optimizer)
    for parameter in _stepped_tensors(engine):
        if not stepped.state[parameter]:
            moments = {kind: torch.zeros_like(parameter) for kind in MOMENTS}
            stepped.state[parameter].update(moments, step=torch.zeros((), device=parameter.device))  # fused: beside it
    link: Callable[[], None] | None = getattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state", None)
    if link is not None:
        link()


class _Saved:
    """The shards in a folder, however they are cut."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = [safe_open(path, framework="pt") for path in sorted(folder.glob("*.safetensors"))]
        self._places: dict[tuple[str, str], list[tuple[int, int, Any, str]]] = {}
        for file in self._files:
            for key in file.keys():  # noqa: SIM118  (no mapping)
                kind, _, rest = key.partition("/")
                start, _, name = rest.partition("/")
                if start.isdecimal():
                    numel = file.get_slice(key).get_shape()[0]
                    self._places.setdefault((kind, name), []).append((int(start), numel, file, key))

    def read(self, kind: str, name: str, start: int, numel: int) -> Float[Tensor, " elements"]:
        """Elements [start, start + numel)."""
        values = torch.empty(numel)
        found = 0
        for first, length, file, key in self._places.get((kind, name), []):
            low, high = max(start, first), min(start + numel, first + length)
            if low < high:
                values[low - start : high - start] = file.get_slice(key)[low - first : high - first]
                found += high - low
        if found != numel:
            raise StateShardsError(
                f"{self._folder} has {found} of the {numel} elements of {name} ({kind}): it is a checkpoint of another "
                "model, or some of its files are missing"
            )
        return values

    def whole(self, key: str) -> Tensor:
        """A tensor that was not cut."""
        for file in self._files:
            if key in file.keys():  # noqa: SIM118  (no mapping)
                tensor: Tensor = file.get_tensor(key)
                return tensor
        raise StateShardsError(f"{self._folder} has no {key!r}: some of its files are missing")
