"""Loading a model's weights, all of them."""

from typing import Any

from vision_sr1.config import ConfigError

NAMED_AT_MOST = 3


def load_model(path: str, **options: Any) -> Any:
    """What `AutoModelForImageTextToText.from_pretrained` gives for a folder or a hub's name.

    transformers gives random values to weights that a checkpoint lacks; here that is an error.

    Raises:
        ConfigError: the checkpoint cannot be loaded, or lacks weights of the model.
    """
    from transformers import AutoModelForImageTextToText

    try:
        model, found = AutoModelForImageTextToText.from_pretrained(
            path, output_loading_info=True, trust_remote_code=False, **options
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"model.path: {path} cannot be loaded: {' '.join(str(error).split())}") from error
    if missing := sorted(found["missing_keys"]):
        others = sorted(found["unexpected_keys"])
        names = ", ".join([*missing[:NAMED_AT_MOST], *(["…"] if len(missing) > NAMED_AT_MOST else [])])
        instead = f"; it has {len(others)} others, as {others[0]}" if others else ""
        raise ConfigError(
            f"model.path: {path} lacks {len(missing)} weights of the model ({names}){instead}: copy the model again, "
            "or save it with the names that transformers gives"
        )
    return model
