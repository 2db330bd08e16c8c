"""Image features that vLLM's models keep from one step to the next."""

import torch

DEEPSTACK = "deepstack_input_embeds"  # of Qwen3-VL: what is added to the outputs of its first layers


@torch.inference_mode()  # in which vLLM makes larger ones
def clear_image_features(model: torch.nn.Module) -> None:
    """Empties those that are in memory which was given back: vLLM has them in a list, which its sleep at level 2 does
    not save, and empties them itself only after a prompt with images.

    In place, since captured graphs read them at their addresses.
    """
    for module in model.modules():
        for features in getattr(module, DEEPSTACK, None) or ():
            features.zero_()
