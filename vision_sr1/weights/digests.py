"""Digests of parameters, by which actors are compared: of the bytes, and as fast as these can be read."""

import torch
from jaxtyping import Int32, UInt8
from torch import Tensor
from xxhash import xxh3_128_hexdigest

_CHUNK = 2**24  # words at a time; products take eight bytes each
_MIX_1 = 0x1E3779B97F4A7C15
_MIX_2 = 0x3F58476D1CE4E5B9


def digest(tensor: Tensor) -> str:
    """Equal for equal bytes, and different for others but for a chance of about 2**-64.

    In CPU memory xxh3; on an accelerator a `fingerprint`, so that nothing is copied from there.
    """
    data = tensor.detach().contiguous().view(-1).view(torch.uint8)
    return xxh3_128_hexdigest(data.numpy().data) if tensor.device.type == "cpu" else fingerprint(data)


def fingerprint(data: UInt8[Tensor, " bytes"]) -> str:
    """The sum modulo 2**64 of the bytes' 32-bit words, each times an odd number that belongs to its position."""
    total = torch.full((), len(data), dtype=torch.int64, device=data.device)
    for start, words in enumerate(_words(data).split(_CHUNK)):
        position = torch.arange(start * _CHUNK, start * _CHUNK + len(words), device=data.device)
        mixed = (position + 1) * _MIX_1
        mixed = (mixed ^ (mixed >> 31)) * _MIX_2
        total += (words * (mixed | 1)).sum()
    return f"{int(total) % 2**64:016x}"


def _words(data: UInt8[Tensor, " bytes"]) -> Int32[Tensor, " words"]:
    missing = -len(data) % 4
    return (torch.nn.functional.pad(data, (0, missing)) if missing else data).view(torch.int32)
