"""The learner's side of the `adapter` backend: low-rank adapters go to the actors beside the control plane's calls.

They are small, and actors have the base weights from disk, so that no transfer group is needed.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

from safetensors.torch import save
from vllm.distributed.weight_transfer.base import (
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
)


@dataclass
class AdapterTrainerInitInfo(TrainerInitInfo):
    """What PEFT writes into adapter_config.json."""

    backend: ClassVar[str] = "adapter"

    config: str


class AdapterTrainerWeightTransferEngine(TrainerWeightTransferEngine[AdapterTrainerInitInfo]):
    """Sends all adapters in one call."""

    init_info_cls = AdapterTrainerInitInfo

    def __init__(self, *, client: VLLMWeightSyncClient, source: WeightSource, is_sender: bool, config: str) -> None:
        super().__init__(client=client, source=source, is_sender=is_sender)
        self._config = config

    @classmethod
    def trainer_init(
        cls, init_info: AdapterTrainerInitInfo, *, client: VLLMWeightSyncClient, source: WeightSource | None = None
    ) -> Self:
        """Keeps what is to be sent; the actors have nothing to join."""
        if source is None:
            raise ValueError("the adapter backend sends a WeightSource of adapters")
        return cls(client=client, source=source, is_sender=init_info.is_sender, config=init_info.config)

    def send_weights(self) -> None:
        """Sends the adapters and has the actors load them. Every trainer rank calls it."""
        assert self.source is not None
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.source}
        if self.is_sender:
            self.client.start_weight_update()
            self.client.update_weights({"adapter": {"config": self._config, "weights": save(tensors)}})
            self.client.finish_weight_update()

    def shutdown(self) -> None:
        """There is no group to leave."""
