"""Idefics3: tiles by rows and columns, each with its place in words, then all of the image; a language model of Llama's
form."""

from math import isqrt
from typing import Any, ClassVar

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vision_sr1.families._tiles import TINY_MERGED, TINY_TILE, TINY_TOKENS, Tiles
from vision_sr1.families.family import TinySizes

_WRAPPER, _WHOLE = "<fake_token_around_image>", "<global-img>"
_PLACES = 6  # rows and columns that have a token


class Idefics3(Tiles):
    """Idefics3; SmolVLM2 differs from it in little."""

    model_type = "idefics3"
    title = "Idefics3"
    image_token = template_token = "<image>"
    reserved_tokens = (
        "<image>",
        _WRAPPER,
        _WHOLE,
        *(f"<row_{1 + place // _PLACES}_col_{1 + place % _PLACES}>" for place in range(_PLACES**2)),
    )
    vision_modules = ("vision_model", "connector")
    projectors = ("connector",)
    special_tokens = ("<|end_of_text|>", "<|begin_of_text|>", "<end_of_utterance>", *reserved_tokens)
    end_of_turn = "<end_of_utterance>"
    image_markup = "<image>"
    begin: ClassVar[str] = "<|begin_of_text|>"  # what the chat template writes first

    def tile(self, image_processor: Any) -> int:
        """See `Tiles`."""
        side: int = image_processor.max_image_size["longest_edge"]
        return side

    def tile_settings(self, image_processor: Any, max_pixels: int) -> dict[str, Any]:
        """See `Tiles`: every image is scaled until its longer side has the most tiles that a side may have."""
        tile = self.tile(image_processor)
        longest = min(image_processor.size["longest_edge"], isqrt(max_pixels))
        return {"size": {"longest_edge": max(1, longest // tile) * tile}, "do_image_splitting": True}

    def tile_tokens(self, processor: Any) -> int:
        """See `Tiles`."""
        tokens: int = processor.image_seq_len
        return tokens

    def tiles(
        self, processor: Any, picture: Image.Image, settings: dict[str, Any]
    ) -> Float[Tensor, "tiles channels height width"]:
        """See `Tiles`."""
        found: Tensor = processor.image_processor(images=[[picture]], **settings, return_tensors="pt")["pixel_values"]
        return found[0]

    def token_ids(self, processor: Any, settings: dict[str, Any], *, height: int, width: int) -> list[int]:
        """See `Tiles`."""
        _, rows, columns = processor.image_processor.get_number_of_image_patches(height, width, settings)
        tile = self.image_token * self.tile_tokens(processor)
        grid = [[f"{_WRAPPER}<row_{row + 1}_col_{col + 1}>{tile}" for col in range(columns)] for row in range(rows)]
        text = "".join("".join(row) + "\n" for row in grid) + "\n" * bool(grid) + _WRAPPER + _WHOLE + tile + _WRAPPER
        return list(processor.tokenizer(text, add_special_tokens=False).input_ids)

    def tile_features(self, model: Any, tiles: Float[Tensor, "tiles channels height width"]) -> Any:
        """See `Tiles`."""
        return model.model.get_image_features(tiles.unsqueeze(0), return_dict=True)

    def merged(self, config: Any) -> int:
        """See `Tiles`."""
        scale: int = config.scale_factor
        return scale

    @property
    def chat_template(self) -> str:
        """See `Family`: names in plain words, and a space behind their colon unless an image follows."""
        return (
            f"{self.begin}{{% for message in messages %}}{{{{ message.role | capitalize }}}}:"
            "{% if message.content is string %} {{ message.content }}{% else %}"
            "{% if not message.content or message.content[0].type != 'image' %} {% endif %}"
            "{% for part in message.content %}"
            f"{{% if part.type == 'image' %}}{self.image_markup}"
            "{% elif part.type == 'text' %}{{ part.text }}{% endif %}"
            f"{{% endfor %}}{{% endif %}}{self.end_of_turn}\n{{% endfor %}}"
            "{% if add_generation_prompt %}Assistant:{% endif %}"
        )

    def tiny_config(self, sizes: TinySizes, tokenizer: Any) -> Any:
        """See `Family`."""
        from transformers import Idefics3Config

        return Idefics3Config(**self._tiny_model(sizes, tokenizer))

    def tiny_processor(self, tokenizer: Any, pixels: int) -> Any:
        """See `Family`."""
        from transformers import Idefics3ImageProcessor, Idefics3Processor

        image_processor = Idefics3ImageProcessor(**self._tiny_scale(pixels))
        return Idefics3Processor(image_processor, **self._tiny_rest(tokenizer))

    def _tiny_model(self, sizes: TinySizes, tokenizer: Any) -> dict[str, Any]:
        return super()._tiny_model(sizes, tokenizer) | {
            "text_config": self._tiny_text(sizes, tokenizer, "llama"),
            "vision_config": self._tiny_vision(sizes),
            "scale_factor": TINY_MERGED,
            "pad_token_id": tokenizer.pad_token_id,
        }

    def _tiny_scale(self, pixels: int) -> dict[str, Any]:
        return {"size": {"longest_edge": isqrt(pixels)}, "max_image_size": {"longest_edge": TINY_TILE}}

    def _tiny_rest(self, tokenizer: Any) -> dict[str, Any]:
        return {"tokenizer": tokenizer, "image_seq_len": TINY_TOKENS, "chat_template": self.chat_template}


FAMILY = Idefics3()
