"""Digests tell weights apart, on every device alike."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from vision_sr1.weights import digests
from vision_sr1.weights.digests import digest, fingerprint


@given(st.binary(min_size=1, max_size=100), st.data())
def test_every_changed_byte_every_exchange_and_every_added_zero_changes_a_fingerprint(data: bytes, draw: st.DataObject):
    held = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    position = draw.draw(st.integers(0, len(data) - 1))
    other = held.clone()
    other[position] = draw.draw(st.integers(0, 255).filter(lambda value: value != data[position]))
    variants = [other, torch.cat([held, torch.zeros(1, dtype=torch.uint8)])]
    shift = draw.draw(st.integers(0, len(data) - 1))
    if not torch.equal(held.roll(shift), held):
        variants.append(held.roll(shift))
    assert fingerprint(held) not in {fingerprint(variant) for variant in variants}
    assert fingerprint(held) == fingerprint(held.clone())


def test_a_fingerprint_is_the_same_in_pieces(monkeypatch):
    data = torch.randint(256, (1003,), dtype=torch.uint8)
    whole = fingerprint(data)
    monkeypatch.setattr(digests, "_CHUNK", 7)
    assert fingerprint(data) == whole


def test_a_digest_is_of_the_bytes():
    weight = torch.randn(8, 6).bfloat16()
    assert digest(weight) == digest(weight.T.contiguous().T)
    assert digest(torch.tensor(0.0)) != digest(torch.tensor(-0.0))
