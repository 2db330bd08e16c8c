"""The objective: training samples with their advantages, micro-batches, loss, and the update of the policy."""
