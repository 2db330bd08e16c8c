"""A policy as others load it: weights in Hugging Face format with a model card."""
