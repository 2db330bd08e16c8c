"""Checkpoints: everything that a learner resumes from, and the policy as others load it."""
