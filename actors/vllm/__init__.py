"""What of vLLM's own is extended: its workers, its adapters, its cache of compiled kernels."""
