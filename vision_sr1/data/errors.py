"""What is said of data that cannot be used."""

from typing import Literal

from vision_sr1.errors import UserError

Reason = Literal["source", "row", "text", "image", "length"]


class DataError(UserError):
    """A data set or one of its rows cannot be used; the message says which, why and what to do.

    Attributes:
        reason: what it is about: the whole source, a row's form, its text, an image, or its length.
    """

    def __init__(self, message: str, reason: Reason = "source") -> None:
        super().__init__(message)
        self.reason: Reason = reason
