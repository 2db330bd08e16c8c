"""A low-rank adapter in place of new weights: received, applied, replaced by the next."""

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import get_args

from vllm.config.lora import MaxLoRARanks
from vllm.lora.request import LoRARequest
from vllm.v1.engine.async_llm import AsyncLLM

_WEIGHTS = "adapter_model.safetensors"


def room_for(rank: int) -> int:
    """The least rank that vLLM makes room for and that holds this one."""
    return next(room for room in sorted(get_args(MaxLoRARanks)) if room >= rank)


class Adapter:
    """The adapter that every sample of an engine uses, those under way included."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="adapters-")
        self._staged: Path | None = None
        self.request: LoRARequest | None = None

    def stage(self, config: str, weights: bytes) -> None:
        """Keeps an adapter in PEFT's format until it is applied."""
        folder = Path(tempfile.mkdtemp(dir=self._folder.name))
        (folder / "adapter_config.json").write_text(config, encoding="utf-8")
        (folder / _WEIGHTS).write_bytes(weights)
        self._staged = folder

    def discard(self) -> None:
        """Forgets one that was staged."""
        if self._staged is not None:
            shutil.rmtree(self._staged)
        self._staged = None

    async def apply(self, engine: AsyncLLM) -> None:
        """Loads the staged adapter over the one before it."""
        assert self._staged is not None, "an update is finished only after it was received"
        former, path = self.request, str(self._staged)
        await engine.add_lora(_request(path, load_inplace=former is not None))
        self.request, self._staged = _request(path, load_inplace=False), None
        if former is not None:
            shutil.rmtree(former.lora_path)

    def digest(self) -> str:
        """Of the weights that are applied."""
        if self.request is None:
            return ""
        return hashlib.sha256((Path(self.request.lora_path) / _WEIGHTS).read_bytes()).hexdigest()

    def close(self) -> None:
        """Deletes the files."""
        self._folder.cleanup()


def _request(path: str, *, load_inplace: bool) -> LoRARequest:
    return LoRARequest(lora_name="policy", lora_int_id=1, lora_path=path, load_inplace=load_inplace)
