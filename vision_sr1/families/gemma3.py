"""Gemma 3: an image has one size and a fixed number of tokens, which all see each other; most layers have a window."""

from typing import Any

from PIL import Image
from torch import Tensor

from vision_sr1.config import ModelConfig
from vision_sr1.families.family import Family, ImageInput, TinySizes, VisionSizes

_NEWLINES = ("\n", "\n\n", "\n\n\n", "\n\n\n\n")
_JOINED = ((0, 1, 2), (1, 0, 2), (1, 1, 3))  # which newlines, next to which, are one token; in vLLM's order
_TINY_SIDE, _TINY_PATCH, _TINY_TOKENS, _TINY_WINDOW = 56, 14, 4, 24


class Gemma3(Family):
    """Gemma 3 with images. `model.min_pixels` and `model.max_pixels` have no effect: an image is stretched to a square
    of the model's own size."""

    model_type = "gemma3"
    title = "Gemma 3"
    image_token = "<image_soft_token>"
    template_token = "<start_of_image>"
    reserved_tokens = ("<start_of_image>", "<end_of_image>", "<image_soft_token>")
    vision_modules = ("vision_tower", "multi_modal_projector")
    projectors = ("multi_modal_projector",)
    sees_whole_images = True
    attention_mask = {"full_attention": None, "sliding_attention": None}  # noqa: RUF012
    special_tokens = ("<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", *reserved_tokens)
    named_tokens = {  # noqa: RUF012
        "bos_token": "<bos>",
        "image_token": "<image_soft_token>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    }
    plain_tokens = _NEWLINES
    end_of_turn = "<end_of_turn>"
    image_markup = "<start_of_image>"
    tiny_embedding_std = 0.1  # multiplied by the square root of the width
    has_min_pixels = False
    tiny_pixels = _TINY_SIDE**2

    def processor_settings(self, model: ModelConfig) -> dict[str, Any]:  # noqa: ARG002
        """See `Family`: no crops beside the image, which transformers' processor and vLLM would count differently."""
        return {"do_pan_and_scan": False}

    def image_tokens(self, processor: Any, model: ModelConfig, *, height: int, width: int) -> int:  # noqa: ARG002
        """See `Family`; the same for all images. Where newlines join those of the text, a prompt has up to two less."""
        return len(self._token_ids(processor))

    def images(self, processor: Any, pictures: list[Image.Image], settings: dict[str, Any]) -> list[ImageInput]:
        """See `Family`."""
        pixels = processor.image_processor(images=pictures, **settings, return_tensors="pt")["pixel_values"]
        token_ids = self._token_ids(processor)
        return [ImageInput({"pixel_values": image.unsqueeze(0)}, token_ids) for image in pixels]

    def smallest_image(self, processor: Any) -> ImageInput:
        """See `Family`; all are of one size."""
        (image,) = self.images(processor, [Image.new("RGB", (8, 8))], {"do_pan_and_scan": False})
        return image

    def parts(self, config: Any, processor: Any) -> list[tuple[str, Any, str, Any]]:
        """See `Family`."""
        start = processor.tokenizer.convert_tokens_to_ids(self.template_token)
        side = config.vision_config.image_size
        return [
            *super().parts(config, processor),
            ("start of an image", config.boi_token_id, "the tokenizer", start),
            ("side of an image", side, "the image processor", processor.image_processor.size["height"]),
            ("tokens of an image", config.mm_tokens_per_image, "the processor", processor.image_seq_length),
        ]

    def joined_tokens(self, tokenizer: Any, token_ids: list[int]) -> list[int]:
        """See `Family`: newlines around an image and those of the text beside them are one token, as vLLM has it."""
        newlines = tokenizer.convert_tokens_to_ids(list(_NEWLINES))
        for first, second, both in _JOINED:
            joined: list[int] = []
            for token in token_ids:
                if joined and (joined[-1], token) == (newlines[first], newlines[second]):
                    joined[-1] = newlines[both]
                else:
                    joined.append(token)
            token_ids = joined
        return token_ids

    def wire_name(self, name: str) -> str:
        """See `Family`: vLLM has a module around the vision tower that transformers has left out since version 5."""
        return name.replace("model.vision_tower.", "model.vision_tower.vision_model.", 1)

    def features(self, model: Any, tensors: dict[str, Tensor], shown: list[int]) -> Any:
        """See `Family`; one tensor for all images."""
        found = model.model.get_image_features(**tensors, return_dict=True)
        found.pooler_output = found.pooler_output[shown]
        return found

    def vision_sizes(self, config: Any) -> VisionSizes:
        """See `Family`."""
        vision = config.vision_config
        return VisionSizes(
            layers=vision.num_hidden_layers,
            full_attention_layers=vision.num_hidden_layers,
            hidden=vision.hidden_size,
            intermediate=vision.intermediate_size,
            patches_per_token=(vision.image_size // vision.patch_size) ** 2 // config.mm_tokens_per_image,
        )

    @property
    def chat_template(self) -> str:
        """See `Family`: there is no turn of a system; its text stands before the first question."""
        return (
            "{{ bos_token }}"
            "{% set before = namespace(text='') %}"
            "{% for message in messages %}"
            "{% if message.role == 'system' %}{% set before.text = message.content[0].text ~ '\n\n' %}{% else %}"
            "<start_of_turn>{{ 'model' if message.role == 'assistant' else message.role }}\n"
            "{{ before.text }}{% set before.text = '' %}"
            "{% if message.content is string %}{{ message.content | trim }}{% else %}"
            "{% for part in message.content %}"
            "{% if part.type == 'image' %}<start_of_image>"
            "{% elif part.type == 'text' %}{{ part.text | trim }}{% endif %}"
            "{% endfor %}{% endif %}<end_of_turn>\n{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
        )

    def tiny_config(self, sizes: TinySizes, tokenizer: Any) -> Any:
        """See `Family`."""
        from transformers import Gemma3Config

        head = sizes.hidden_size // sizes.heads
        kinds = ["full_attention" if layer % 2 else "sliding_attention" for layer in range(sizes.layers)]
        rotary = {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        }
        text = {"head_dim": head, "query_pre_attn_scalar": head, "sliding_window": _TINY_WINDOW}
        start, end, soft = tokenizer.convert_tokens_to_ids(list(self.reserved_tokens))
        return Gemma3Config(
            text_config=sizes.text(tokenizer) | text | {"layer_types": kinds, "rope_parameters": rotary},
            vision_config={
                "hidden_size": sizes.vision_hidden_size,
                "intermediate_size": 2 * sizes.vision_hidden_size,
                "num_hidden_layers": sizes.vision_layers,
                "num_attention_heads": sizes.heads,
                "image_size": _TINY_SIDE,
                "patch_size": _TINY_PATCH,
                "vision_use_head": False,
            },
            mm_tokens_per_image=_TINY_TOKENS,
            boi_token_index=start,
            eoi_token_index=end,
            image_token_index=soft,
            tie_word_embeddings=sizes.tie_word_embeddings,
            dtype="float32",
        )

    def tiny_processor(self, tokenizer: Any, pixels: int) -> Any:  # noqa: ARG002
        """See `Family`."""
        from transformers import Gemma3ImageProcessor, Gemma3Processor

        halves = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        image_processor = Gemma3ImageProcessor(
            size={"height": _TINY_SIDE, "width": _TINY_SIDE}, do_pan_and_scan=False, **halves
        )
        return Gemma3Processor(
            image_processor=image_processor,
            tokenizer=tokenizer,
            image_seq_length=_TINY_TOKENS,
            chat_template=self.chat_template,
        )

    def _token_ids(self, processor: Any) -> list[int]:
        ids: list[int] = processor.tokenizer(processor.full_image_sequence, add_special_tokens=False).input_ids
        return ids


FAMILY = Gemma3()
