"""Registers our weight-transfer backends with vLLM; loaded in every vLLM process through an entry point."""

from vllm.distributed.weight_transfer.factory import (
    WeightTransferEngineFactory,
    WeightTransferTrainerFactory,
)

_registered = False


def register() -> None:
    """Makes the backends `gloo` (both sides) and `adapter` (the trainer's) known; calling it again does nothing."""
    global _registered
    if _registered:
        return
    _registered = True
    WeightTransferEngineFactory.register_engine("gloo", "vision_sr1.weights.gloo_engine", "GlooWeightTransferEngine")
    WeightTransferTrainerFactory.register_engine(
        "gloo", "vision_sr1.weights.gloo_trainer", "GlooTrainerWeightTransferEngine"
    )
    WeightTransferTrainerFactory.register_engine(
        "adapter", "vision_sr1.weights.adapter_trainer", "AdapterTrainerWeightTransferEngine"
    )
