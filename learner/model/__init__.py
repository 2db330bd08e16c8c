"""The policy and its reference as they compute: packed sequences, attention, adapters, FLOPs."""
