"""What is packed, sent as buckets or as changes, and put together again is bit for bit what the trainer holds."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vision_sr1.weights.buckets import Packer, Part, Patch, empty_buffer, views
from vision_sr1.weights.delta import SentWeights, patched

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.uint8]
SPECIAL = [0.0, -0.0, float("nan"), float("inf"), 1.0]


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, Tensor]]:
    """Some versions of some parameters, in which some elements change."""
    shapes = draw(st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=6))
    dtypes = [draw(st.sampled_from(DTYPES)) for _ in shapes]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    share = draw(st.sampled_from([0.0, 0.05, 0.5, 1.0]))

    def values(shape: list[int]) -> Tensor:
        floats = torch.randn(shape, generator=generator)
        special = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), shape, generator=generator)]
        return torch.where(torch.rand(shape, generator=generator) < 0.3, special, floats)

    def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
        return tensor.nan_to_num(7.0, 7.0).abs().to(dtype) if dtype == torch.uint8 else tensor.to(dtype)

    versions = [{str(i): cast(values(s), d) for i, (s, d) in enumerate(zip(shapes, dtypes, strict=True))}]
    for _ in range(draw(st.integers(1, 3))):
        versions.append(
            {
                name: torch.where(
                    torch.rand(held.shape, generator=generator) < share,
                    cast(values(list(held.shape)), held.dtype),
                    held,
                )
                for name, held in versions[-1].items()
            }
        )
    return versions


def bits(tensor: Tensor) -> list[int]:
    return tensor.contiguous().view(-1).view(torch.uint8).tolist()


@given(histories(), st.integers(1, 400))
def test_changes_on_top_of_a_full_version_give_each_later_one(versions: list[dict[str, Tensor]], bucket_bytes: int):
    sent, packer = SentWeights(), Packer(bucket_bytes, torch.device("cpu"))
    held: dict[str, Tensor] = {}
    for number, version in enumerate(versions):
        contents = sent.changes(version.items()) if number else sent.remember(version.items())
        for parts, buffer in packer.pack(contents):
            received = empty_buffer(parts, torch.device("cpu"))
            assert len(received) == len(buffer)
            assert len(parts) == 1 or len(buffer) <= bucket_bytes
            received.copy_(buffer)
            for name, content in views(parts, received):
                held[name] = patched(held[name], content) if isinstance(content, Patch) else content
        assert {name: bits(t) for name, t in held.items()} == {name: bits(t) for name, t in version.items()}
        assert {name: t.shape for name, t in held.items()} == {name: t.shape for name, t in version.items()}


def test_what_did_not_change_is_not_sent_and_few_changes_are_sent_alone():
    sent = SentWeights()
    first = {"same": torch.randn(100), "few": torch.randn(10, 10), "all": torch.randn(100)}
    list(sent.remember(first.items()))
    few = first["few"].clone()
    few[3, 4] = 5.0
    second = {"same": first["same"].clone(), "few": few, "all": first["all"] + 1}
    parts = {part.name: (part, content) for part, content in sent.changes(second.items())}
    assert parts.keys() == {"few", "all"}
    part, patch = parts["few"]
    assert isinstance(patch, Patch)
    assert part.changed == 1
    assert patch.indices.tolist() == [34]
    assert patch.values.tolist() == [5.0]
    assert parts["all"][0] == Part("all", torch.float32, (100,))


def test_a_bucket_stands_until_the_next_but_one_is_asked_for():
    weights = {str(i): torch.full((4,), float(i)) for i in range(6)}
    buckets = Packer(32, torch.device("cpu")).pack((Part(n, t.dtype, tuple(t.shape)), t) for n, t in weights.items())
    before: tuple[list[Part], Tensor] | None = None
    for parts, buffer in buckets:
        if before is not None:
            for name, content in views(*before):
                assert isinstance(content, Tensor)
                assert content.tolist() == weights[name].tolist()
        before = parts, buffer
