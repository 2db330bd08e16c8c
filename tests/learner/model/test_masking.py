"""Masked images: which squares are gray, and that everybody masks the same."""

import numpy as np
import pytest
from PIL import Image

from learner.model.masking import GRAY, Mask


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 100, (height, width, 3), dtype=np.uint8)  # never gray
    return Image.fromarray(pixels)


def is_gray(masked: Image.Image) -> np.ndarray:
    return (np.asarray(masked) == GRAY).all(axis=-1)


@pytest.mark.parametrize(("ratio", "squares"), [(0.01, 1), (0.25, 3), (0.5, 6), (0.6, 7), (1.0, 12)])
def test_a_share_of_the_squares_of_a_token_is_gray_and_the_rest_is_as_it_was(ratio: float, squares: int):
    plain = picture(width=112, height=84)
    masked = Mask(ratio, "0/0")(plain, "digest", tokens=12)
    gray = is_gray(masked)
    blocks = gray.reshape(3, 28, 4, 28).sum(axis=(1, 3))
    assert set(np.unique(blocks).tolist()) <= {0, 28 * 28}, "squares of the size of a token"
    assert int((blocks > 0).sum()) == squares
    assert (np.asarray(masked) == np.asarray(plain))[~gray].all()


@pytest.mark.parametrize(("width", "height", "tokens"), [(300, 2, 3), (1, 1, 4), (37, 53, 7), (90, 90, 1000)])
def test_pictures_of_any_shape_keep_their_size(width: int, height: int, tokens: int):
    masked = Mask(0.6, "0/0")(picture(width, height), "digest", tokens)
    assert masked.size == (width, height)
    assert is_gray(masked).any()


def test_squares_follow_from_the_seed_and_the_picture_alone():
    plain = picture(width=224, height=224)
    first = is_gray(Mask(0.5, "0/3")(plain, "digest", 64))
    assert (first == is_gray(Mask(0.5, "0/3")(plain, "digest", 64))).all()
    for mask, digest in ((Mask(0.5, "0/4"), "digest"), (Mask(0.5, "1/3"), "digest"), (Mask(0.5, "0/3"), "other")):
        assert (first != is_gray(mask(plain, digest, 64))).any()
