"""Pages for people that are one file each, images within, to be opened in a browser or sent to a colleague."""

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

WIDTH = 320  # pixels of a picture on a page


def write_page(path: Path, template: str, **values: Any) -> None:
    """Writes a page.

    Args:
        template: of this folder, without `.html.jinja`.
        values: that it shows; texts are escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    path.write_text(environment.get_template(f"{template}.html.jinja").render(values), encoding="utf-8")


def thumbnail(encoded: bytes) -> dict[str, Any]:
    """An image as pages show it: small, in base64, with the size it has."""
    with Image.open(io.BytesIO(encoded)) as image:
        size = image.size
        small = image.convert("RGB")
        small.thumbnail((WIDTH, WIDTH))
        data = io.BytesIO()
        small.save(data, "WEBP")
    return {"data": base64.b64encode(data.getvalue()).decode(), "width": size[0], "height": size[1]}
