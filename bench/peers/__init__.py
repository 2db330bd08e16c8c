"""This system beside TRL on the same work: see `bench.peers.__main__`."""
