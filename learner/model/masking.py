"""Masked images: some squares of a picture are gray, each about as large as what one of its tokens stands for."""

import hashlib
from dataclasses import dataclass
from math import sqrt

import numpy as np
from PIL import Image

GRAY = 128  # about 0 to a model, whose processor normalizes pixels


@dataclass(frozen=True)
class Mask:
    """Which squares: the same for the same picture and seed, on every rank and in a run that is resumed.

    Pictures are masked before a model's processor sees them, so that all tiles of an image lack the same squares.

    Attributes:
        ratio: share of the squares that are masked; at least one is.
    """

    ratio: float
    seed: str

    def __call__(self, picture: Image.Image, digest: str, tokens: int) -> Image.Image:
        """The masked picture, of the same size.

        Args:
            digest: of the encoded picture.
            tokens: that stand for the picture in a prompt.
        """
        side = sqrt(picture.width * picture.height / tokens)
        rows, columns = (max(1, round(length / side)) for length in (picture.height, picture.width))
        seed = hashlib.sha256(f"{self.seed}/{digest}".encode()).digest()
        order = np.random.default_rng(list(seed)).permutation(rows * columns)
        masked = np.zeros(rows * columns, dtype=bool)
        masked[order[: max(1, round(self.ratio * rows * columns))]] = True
        row_of, column_of = (
            np.arange(length) * squares // length
            for length, squares in ((picture.height, rows), (picture.width, columns))
        )
        pixels = np.array(picture)
        pixels[masked.reshape(rows, columns)[row_of][:, column_of]] = GRAY
        return Image.fromarray(pixels)
