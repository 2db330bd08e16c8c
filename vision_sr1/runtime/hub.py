"""The Hugging Face hub, asked once and briefly: libraries ask for each file, and several times where it is away."""

from pathlib import Path
from typing import Literal

from vision_sr1.errors import UserError

TIMEOUT_S = 10.0  # for its one answer


class HubError(UserError):
    """The hub does not have what was asked for, or cannot be reached; the message says which."""


def check_hub(name: str, kind: Literal["model", "dataset"]) -> None:
    """Whether a model or data set of this name can be had: from the hub's cache on this disk, or from the hub.

    Raises:
        HubError: neither.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.file_download import repo_folder_name

    if (Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind) / "snapshots").is_dir():
        return
    what = "model" if kind == "model" else "data set"
    try:
        HfApi().repo_info(name, repo_type=kind, timeout=TIMEOUT_S)
    except HfHubHTTPError as error:
        said = "asks for a token (HF_TOKEN) or has none of this name" if _is_refusal(error) else str(error)
        raise HubError(f"{name!r} is no folder here and no {what} in the hub's cache, and the hub {said}") from error
    except Exception as error:  # of the HTTP library beneath it, of the system
        reason = " ".join(str(error).split()) or repr(error)
        raise HubError(
            f"{name!r} is no folder here and no {what} in the hub's cache, and the hub cannot be reached ({reason})"
        ) from error


def bytes_of_download(name: str) -> int | None:
    """What is in the hub's cache of a model that is being downloaded; None where none is."""
    if Path(name).is_dir():
        return None
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    blobs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model") / "blobs"
    files = [file for file in blobs.glob("*") if file.is_file()]
    if not any(file.suffix == ".incomplete" for file in files):
        return None
    return sum(file.stat().st_size for file in files)


def _is_refusal(error: object) -> bool:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status in (401, 403, 404)
