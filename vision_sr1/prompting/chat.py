"""A user's turn in the model's chat format: `<image>` markers become the chat template's image parts."""

from typing import Any, TypedDict

from prometheus_client import Counter

from vision_sr1.prompting.prompt_template import IMAGE_MARKER

ESCAPED = Counter("vision_sr1_control_tokens_escaped", "Control tokens in prompts that were escaped.")


class ImageMarkerError(ValueError):
    """The text's image markers and the images given do not match."""


class Turn(TypedDict):
    """One message in the form of chat templates."""

    role: str
    content: list[dict[str, str]]


def content_parts(text: str, num_images: int) -> list[dict[str, str]]:
    """Splits a turn at its `<image>` markers.

    Text without any marker gets its images in front, as most data sets without markers mean it.

    Raises:
        ImageMarkerError: the text has markers, but not one per image.
    """
    text_parts = text.split(IMAGE_MARKER)
    markers = len(text_parts) - 1
    if markers == 0:
        text_parts = [""] * num_images + text_parts
    elif markers != num_images:
        raise ImageMarkerError(f"{markers} {IMAGE_MARKER} markers for {num_images} images in {text[:80]!r}")
    parts: list[dict[str, str]] = []
    for index, text_part in enumerate(text_parts):
        if index:
            parts.append({"type": "image"})
        if text_part:
            parts.append({"type": "text", "text": text_part})
    return parts


def render_user_turn(tokenizer: Any, text: str, num_images: int) -> str:
    """The prompt of a single user's turn, ready for the assistant's reply, by the model's own chat template.

    What the text has of the template's control tokens is text to the model.
    """
    messages = [{"role": "user", "content": content_parts(harmless(text, control_tokens(tokenizer)), num_images)}]
    rendered: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return rendered


def conversation_turns(messages: list[dict[str, str]], num_images: int, controls: frozenset[str]) -> list[Turn]:
    """A conversation as chat templates take it; images are where their markers are, without any at the first question.

    Args:
        controls: tokens that are made plain text.
    """
    turns: list[Turn] = []
    unplaced = 0 if any(IMAGE_MARKER in message["content"] for message in messages) else num_images
    for message in messages:
        here = message["content"].count(IMAGE_MARKER)
        if message["role"] == "user":
            here, unplaced = here + unplaced, 0
        turns.append({"role": message["role"], "content": content_parts(harmless(message["content"], controls), here)})
    return turns


def check_markers(messages: list[dict[str, str]], num_images: int) -> None:
    """Refuses a conversation whose images do not each have a place in a turn that the assistant replies to.

    Args:
        messages: with a reply at least.

    Raises:
        ImageMarkerError: there are more or fewer markers than images, or one is in a reply or behind the last.
    """
    markers = sum(message["content"].count(IMAGE_MARKER) for message in messages)
    if markers not in (0, num_images):
        raise ImageMarkerError(f"{markers} {IMAGE_MARKER} markers for {num_images} images")
    last_reply = max(place for place, message in enumerate(messages) if message["role"] == "assistant")
    before = conversation_turns(messages, num_images, frozenset())[:last_reply]
    seen = sum(part["type"] == "image" for turn in before if turn["role"] != "assistant" for part in turn["content"])
    if seen != num_images:
        raise ImageMarkerError(f"{seen} of {num_images} images are in a turn that is replied to")


def control_tokens(tokenizer: Any) -> frozenset[str]:
    """What a tokenizer would read as a command: its special tokens, and all that are written <|so|>."""
    written = {token for token in tokenizer.get_added_vocab() if token.startswith("<|") and token.endswith("|>")}
    return frozenset(written | set(tokenizer.all_special_tokens))


def harmless(text: str, controls: frozenset[str]) -> str:
    """The text with a space inside each control token, which makes it plain text."""
    if "<" not in text and not any(token in text for token in controls):
        return text
    for token in sorted(controls, key=len, reverse=True):
        if token in text:
            ESCAPED.inc(text.count(token))
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text
