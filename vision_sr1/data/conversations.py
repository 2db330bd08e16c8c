"""Conversations for supervised stages."""

from dataclasses import dataclass

from vision_sr1.config import DataConfig
from vision_sr1.data.errors import DataError
from vision_sr1.data.pictures import Pictures
from vision_sr1.data.tables import load_table
from vision_sr1.data.texts import messages
from vision_sr1.prompting.chat import ImageMarkerError, check_markers

FORMS = (("messages",), ("conversations",), ("prompt", "completion"))  # columns; turns of several are joined


@dataclass(frozen=True)
class ConversationRow:
    """One row of a supervised set: turns of role and content, and encoded images in the order of their markers."""

    messages: list[dict[str, str]]
    images: list[bytes]


class Conversations:
    """A supervised set in any of `FORMS`, indexable; each row is checked when it is read.

    Args:
        source: as `load_table` takes it.

    Raises:
        DataError: the set cannot be read, or has conversations in none of the forms.
    """

    def __init__(self, source: str, config: DataConfig) -> None:
        self._rows = load_table(source)
        self.source = source
        self._pictures = Pictures(source, config)
        there = self._rows.column_names
        form = next((columns for columns in FORMS if set(columns) <= set(there)), None)
        if form is None:
            known = ", ".join(" and ".join(columns) for columns in FORMS)
            raise DataError(f"{source} has no conversations ({known}); its columns: {', '.join(there)}")
        self._form: tuple[str, ...] = form

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> ConversationRow:
        """The row.

        Raises:
            DataError: a message is no text, nobody asks or answers, or an image cannot be used or has no place.
        """
        where = f"{self.source}, row {index}"
        row, folder = self._rows[index], self._rows.folder(index)
        turns = [turn for column in self._form for turn in messages(row.get(column), where)]
        if all(turn.role != "assistant" for turn in turns):
            raise DataError(f"{where}: no assistant turn to learn from", "row")
        if turns[0].role == "assistant":
            raise DataError(
                f"{where}: the conversation begins with an assistant turn: nothing is asked before it", "row"
            )
        own = [item for turn in turns for item in turn.images]
        images = [self._pictures.read(item, f"{where}, image {number}", folder) for number, item in enumerate(own)]
        images = images or self._pictures.of(row, where, folder)
        said = [{"role": turn.role, "content": turn.text} for turn in turns]
        try:
            check_markers(said, len(images))
        except ImageMarkerError as error:
            raise DataError(f"{where}: {error}", "row") from error
        return ConversationRow(said, images)
