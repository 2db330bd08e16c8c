"""Prompts and responses as text, tokens and images: templates, chat format, parsing, safe images."""
