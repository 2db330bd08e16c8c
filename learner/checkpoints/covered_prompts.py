"""Which prompts' groups may leave the streams: those that were learned from, once a checkpoint holds it."""


class CoveredPrompts:
    """From learning to the disk: a crash in between finds the groups where they were."""

    def __init__(self) -> None:
        self._learned: list[str] = []
        self._held: list[str] = []  # by the checkpoint being written, or by those that failed

    def __bool__(self) -> bool:
        """Whether anything was learned that no checkpoint on the disk holds."""
        return bool(self._learned or self._held)

    def learned(self, prompt_ids: list[str]) -> None:
        """These were learned from, or left out."""
        self._learned += prompt_ids

    def hold(self) -> list[str]:
        """A checkpoint of all that was learned is begun: the prompts that it holds."""
        self._held, self._learned = self._held + self._learned, []
        return list(self._held)

    def release(self) -> list[str]:
        """That checkpoint is on the disk: the prompts whose groups may leave the streams."""
        held, self._held = self._held, []
        return held
