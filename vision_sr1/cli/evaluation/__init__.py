"""`vision-sr1 eval`: benchmarks asked of any checkpoint, through actors and reward service as in training."""
