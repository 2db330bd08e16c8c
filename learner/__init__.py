"""The DeepSpeed learner: feeding prompts, objective, SFT, checkpoints, publishing weights, evaluation."""
