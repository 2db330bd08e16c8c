"""Publishing: a policy version brought to all actors, and the comparison of what they compute."""
