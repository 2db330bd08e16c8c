"""Errors that every service and command ends with in the same way."""


class UserError(ValueError):
    """A mistake in what the user gave: starting again would not help. The message names the value and the way out."""


class OutageError(RuntimeError):
    """Something outside this process is out of reach: starting again may help."""
