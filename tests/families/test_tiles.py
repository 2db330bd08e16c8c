"""Families that cut images into tiles: the configuration and the model's own processor bound how many."""

from pathlib import Path

import pytest
import torch

from tests.families.side import PICTURES, Side
from vision_sr1.families import family_of_model
from vision_sr1.families._tiles import TINY_TILE, Tiles


@pytest.fixture
def tiled(family_model: Path) -> Path:
    if not isinstance(family_of_model(str(family_model)), Tiles):
        pytest.skip("cuts no image into tiles")
    return family_model


def tiles(side: Side) -> list[int]:
    images = side.builder.images(PICTURES)
    assert images is not None
    return [len(image.tensors["pixel_values"]) for image in images.inputs]


def bounded(pixels: int) -> list[str]:
    return [f"model.min_pixels={min(pixels, TINY_TILE**2)}", f"model.max_pixels={pixels}"]


def test_one_tile_is_all_of_an_image(tiled: Path):
    side = Side(tiled, *bounded(TINY_TILE**2))
    assert tiles(side) == [1, 1]
    answer = list(range(20, 30))
    assert torch.allclose(side.packed([side.sequence(5, answer)]), side.separately(5, answer), atol=2e-5)


def test_there_are_no_more_than_the_model_s_own_processor_makes(tiled: Path):
    few, many = (Side(tiled, *bounded(pixels)) for pixels in (4 * TINY_TILE**2, 100 * TINY_TILE**2))
    assert tiles(few) == tiles(many)
    assert max(tiles(few)) == 5
