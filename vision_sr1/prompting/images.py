"""Images from anywhere, made safe before anything else sees them: what cannot be used is refused, what differs from a
plain picture of red, green and blue is made one."""

import contextlib
import io
import math
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from prometheus_client import Counter

NORMALIZED = Counter("vision_sr1_images_normalized", "Images that were normalized, by their former kind.", ["what"])

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 89_478_485  # of an image that is decoded; larger ones are taken for decompression bombs
MAX_ASPECT_RATIO = 200  # the model's own processor refuses longer ones
_PLAIN = ("RGB", "L", "1")


class UnusableImageError(ValueError):
    """An image cannot be used; the message says why and what to do."""


def plain_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image in red, green and blue, 8 bit each; its size is checked before it is decoded.

    Of an animation it is the first frame; transparency is put on white, 16 bit is scaled to 8, an orientation that a
    camera noted is carried out.

    Raises:
        UnusableImageError: no image of a known format, a truncated one, or one whose size is out of bounds.
    """
    with _refusing(data):
        return _plain(_opened(data, max_pixels))


def stored_form(data: bytes, max_pixels: int = MAX_PIXELS) -> bytes:
    """The bytes under which an image travels: as they are where every decoder sees the same in them, else as PNG.

    Raises:
        UnusableImageError: see `plain_image`.
    """
    with _refusing(data):
        image = _opened(data, max_pixels)
        what = _peculiarity(image)
        if what is None:
            return data
        NORMALIZED.labels(what).inc()
        encoded = io.BytesIO()
        _plain(image).save(encoded, "PNG")
        return encoded.getvalue()


@contextlib.contextmanager
def _refusing(data: bytes) -> Iterator[None]:
    """Decoders raise whatever their format's damage leads them to."""
    try:
        yield
    except UnusableImageError:
        raise
    except UnidentifiedImageError:
        raise UnusableImageError(
            f"{len(data)} bytes that are not an image, or of a variant that is not read (they begin with "
            f"{data[:12]!r}); known formats: {', '.join(FORMATS)}"
        ) from None
    except Image.DecompressionBombError as error:
        raise UnusableImageError(f"a decompression bomb: {error}") from None
    except Exception as error:
        raise UnusableImageError(f"an image of {len(data)} bytes is cut off or damaged: {error!r}") from error


def _opened(data: bytes, max_pixels: int) -> Image.Image:
    if not data:
        raise UnusableImageError("an image of 0 bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the bound below is ours
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_size(*image.size, max_pixels)
        image.load()
    return image


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height == 0:
        raise UnusableImageError(f"an image of {width} x {height} pixels")
    if width * height > max_pixels:
        raise UnusableImageError(
            f"an image of {width} x {height} pixels: {max_pixels} are allowed (data.max_image_pixels); scale it down"
        )
    if max(width, height) >= MAX_ASPECT_RATIO * min(width, height):
        raise UnusableImageError(
            f"an image of {width} x {height} pixels: one side is {MAX_ASPECT_RATIO} times the other or more; cut it"
        )


def _peculiarity(image: Image.Image) -> str | None:
    if getattr(image, "n_frames", 1) > 1:
        return "animated"
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        return "transparent"
    if image.mode.startswith("F"):
        return "float"
    if image.mode.startswith("I"):
        return "16_bit"
    if image.mode not in _PLAIN:
        return image.mode.lower()
    if image.getexif().get(0x0112, 1) != 1:
        return "turned"
    return None


def _plain(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return _to_8_bit(image).convert("RGB")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """From integers or floats of any range; what is 0 stays black where nothing is below.

    White is 1 for floats below 2, else 255, or 65535, or the largest value where it is beyond.
    """
    values = image.convert("F")
    pixels = np.asarray(values)
    low, high = float(pixels.min()), float(pixels.max())
    if not math.isfinite(high - low):
        raise UnusableImageError("an image with pixels that are not finite numbers")
    if image.mode.startswith("F") and high < 2:
        top = max(high, 1.0)
    else:
        top = 65535.0 if 255 < high <= 65535 and low >= 0 else max(high, 255.0)
    floor = min(low, 0.0)
    return values.point(lambda value: value * (255.0 / (top - floor)) - floor * 255.0 / (top - floor)).convert("L")
