"""Images of every kind that data sets have, and those meant to hurt."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vision_sr1.prompting.images import UnusableImageError, plain_image, stored_form


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is so large and has hardly any data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


RED = Image.new("RGB", (32, 24), "red")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes"),
        (b"<html>not found</html>", "not an image.*begin with b'<html>"),
        (b"<svg xmlns='x'/>", "not an image"),
        (encoded(RED)[:60], "cut off or damaged"),
        (encoded(RED, "JPEG")[:-200], "cut off or damaged"),
        (png_header(40_000, 40_000), "bomb"),
        (png_header(2**31 - 1, 2**31 - 1), "pixels"),
        (png_header(12_000, 10_000), "12000 x 10000 pixels: 89478485 are allowed"),
        (png_header(0, 7), "not an image|0 x 7|damaged"),
        (encoded(Image.new("RGB", (400, 2))), "one side is 200 times the other"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_reason(data: bytes, message: str):
    with pytest.raises(UnusableImageError, match=message):
        stored_form(data)


def test_a_bomb_is_found_before_it_is_decoded():
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(UnusableImageError):
        stored_form(png_header(30_000, 30_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_plain_pictures_travel_as_they_are(kind: str):
    data = encoded(RED, kind)
    assert stored_form(data) == data
    assert plain_image(data).mode == "RGB"


def test_transparency_is_put_on_white():
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.putpixel((0, 0), (255, 0, 0, 255))
    plain = plain_image(stored_form(encoded(image)))
    assert plain.getpixel((0, 0)) == (255, 0, 0)
    assert plain.getpixel((1, 1)) == (255, 255, 255)


def test_16_bit_is_scaled_and_not_cut():
    values = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    plain = np.asarray(plain_image(stored_form(encoded(Image.fromarray(values)))))
    assert plain[0, 0, 0] == 0
    assert plain[7, 7, 0] == 255
    assert 120 <= plain[4, 0, 0] <= 140


def test_cmyk_palettes_grey_and_turned_pictures_look_as_they_should():
    cmyk = stored_form(encoded(RED.convert("CMYK"), "JPEG"))
    assert cmyk.startswith(b"\x89PNG")
    red, green, blue = np.asarray(plain_image(cmyk))[4, 4]
    assert red > 200
    assert max(green, blue) < 60
    assert plain_image(stored_form(encoded(RED.convert("P"), "GIF"))).getpixel((0, 0)) == (255, 0, 0)
    assert plain_image(stored_form(encoded(Image.new("L", (8, 8), 77)))).getpixel((0, 0)) == (77, 77, 77)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert plain_image(stored_form(encoded(RED, "JPEG", exif=exif))).size == (24, 32)


def test_an_animation_is_its_first_frame():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    stored = stored_form(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert stored.startswith(b"\x89PNG")
    assert plain_image(stored).getpixel((0, 0)) == (255, 0, 0)


def tiff(values: list[list[float]]) -> bytes:
    return encoded(Image.fromarray(np.array(values, dtype=np.float32)), "TIFF")


@pytest.mark.parametrize(
    ("values", "read"),
    [
        ([[0.0, 0.5, 1.0]], [0, 127, 255]),
        ([[0.0, 0.25, 0.5]], [0, 63, 127]),
        ([[0.5, 0.5, 0.5]], [127, 127, 127]),
        ([[0.0, 0.0, 0.0]], [0, 0, 0]),
        ([[-1.0, 0.0, 1.0]], [0, 127, 255]),
        ([[-0.02, 0.5, 1.02]], [0, 127, 255]),  # as resampling leaves them
        ([[0.0, 128.0, 255.0]], [0, 128, 255]),
        ([[0.0, 32768.0, 65535.0]], [0, 127, 255]),
        ([[0.0, 50000.0, 100000.0]], [0, 127, 255]),
    ],
)
def test_floats_are_scaled_from_the_range_that_they_have(values: list[list[float]], read: list[int]):
    plain = np.asarray(plain_image(stored_form(tiff(values))))[0, :, 0].astype(int)
    assert np.abs(plain - read).max() <= 1


@pytest.mark.parametrize("pixel", [float("nan"), float("inf"), float("-inf")])
def test_pixels_that_are_no_numbers_are_refused(pixel: float):
    with pytest.raises(UnusableImageError, match="pixels that are not finite numbers"):
        stored_form(tiff([[0.5, pixel, 1.0]]))


def test_small_integers_stay_dark():
    dark = encoded(Image.fromarray(np.array([[0, 1, 2]], dtype=np.int32)), "TIFF")
    assert np.asarray(plain_image(stored_form(dark))).max() == 2
