"""The demo: the whole method at the size of a laptop, and its report."""
