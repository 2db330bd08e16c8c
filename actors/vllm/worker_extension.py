"""What an actor's workers say of their weights, beyond what vLLM lets them say."""

from typing import Any


class WeightReports:
    """Mixed into vLLM's workers; given to vLLM by name, as `worker_extension_cls`."""

    def weight_digests(self: Any) -> dict[str, str]:
        """The weight-transfer engine's digests, by this worker's ranks and the parameters' names.

        vLLM has checksums of its own. They take seconds per gigabyte, in which nothing is generated, and on CPUs leave
        out the weights that matrix kernels have packed away, which are most.
        """
        prefix = self._weight_checksum_prefix()
        return {prefix + name: digest for name, digest in self.weight_transfer_engine.digests().items()}

    def weight_transfer_failure(self: Any) -> str:
        """What has gone wrong since the last call; empty: nothing. See `vision_sr1.weights.failures`."""
        engine = self.weight_transfer_engine
        failure, engine.failure = engine.failure, ""
        return str(failure)
