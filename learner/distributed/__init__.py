"""Ranks: DeepSpeed's engine, collectives, and states that are independent of how they are sharded."""
