"""SmolVLM2: as Idefics3, with another tokenizer and a processor of videos."""

from typing import Any

from vision_sr1.families._tiles import TINY_TILE
from vision_sr1.families.family import TinySizes
from vision_sr1.families.idefics3 import Idefics3


class SmolVLM(Idefics3):
    """SmolVLM2."""

    model_type = "smolvlm"
    title = "SmolVLM2"
    special_tokens = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<end_of_utterance>", *Idefics3.reserved_tokens)
    begin = "<|im_start|>"

    def tiny_config(self, sizes: TinySizes, tokenizer: Any) -> Any:
        """See `Family`."""
        from transformers import SmolVLMConfig

        return SmolVLMConfig(**self._tiny_model(sizes, tokenizer))

    def tiny_processor(self, tokenizer: Any, pixels: int) -> Any:
        """See `Family`."""
        from transformers import SmolVLMImageProcessor, SmolVLMProcessor, SmolVLMVideoProcessor

        scale = self._tiny_scale(pixels)
        frames = {"max_frames": 8, "fps": 1, "video_size": {"longest_edge": TINY_TILE}}
        video_processor = SmolVLMVideoProcessor(**scale, num_frames=8, fps=1, video_sampling=frames)
        return SmolVLMProcessor(
            image_processor=SmolVLMImageProcessor(**scale),
            video_processor=video_processor,
            **self._tiny_rest(tokenizer),
        )


FAMILY = SmolVLM()
