"""Work that a weight update may have to wait for."""

import asyncio


class Outstanding:
    """Ids of things that are still to come."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, item: str) -> None:
        """This one is to come."""
        self._ids.add(item)
        self._empty.clear()

    def discard(self, item: str) -> None:
        """It has come, if it was outstanding at all."""
        self._ids.discard(item)
        if not self._ids:
            self._empty.set()

    def clear(self) -> None:
        """Nothing is waited for any longer."""
        self._ids.clear()
        self._empty.set()

    async def all_come(self) -> None:
        """Returns once nothing is outstanding."""
        await self._empty.wait()
