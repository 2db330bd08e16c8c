"""Registers our weight-transfer backends with vLLM; loaded in every vLLM process through an entry point."""

from vllm.distributed.weight_transfer.factory import (
    WeightTransferEngineFactory,
    WeightTransferTrainerFactory,
)

_registered = False


def register() -> None:
    """Makes `gloo`, `bounded_nccl` and, on the trainer's side, `adapter` known; calling it again does nothing."""
    global _registered
    if _registered:
        return
    _registered = True
    WeightTransferEngineFactory.register_engine("gloo", "vision_sr1.weights.gloo_receiver", "GlooWeightTransferEngine")
    WeightTransferTrainerFactory.register_engine(
        "gloo", "vision_sr1.weights.gloo_sender", "GlooTrainerWeightTransferEngine"
    )
    WeightTransferEngineFactory.register_engine(
        "bounded_nccl", "vision_sr1.weights.nccl_receiver", "BoundedNcclWeightTransferEngine"
    )
    WeightTransferTrainerFactory.register_engine(
        "bounded_nccl", "vision_sr1.weights.nccl_sender", "BoundedNcclTrainerWeightTransferEngine"
    )
    WeightTransferTrainerFactory.register_engine(
        "adapter", "vision_sr1.weights.adapter_sender", "AdapterTrainerWeightTransferEngine"
    )
