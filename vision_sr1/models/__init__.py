"""Models as they come: which can be trained here."""
