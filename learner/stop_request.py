"""A request to stop, by SIGTERM or SIGINT: the learner ends where it can be resumed."""

import signal


class StoppedError(Exception):
    """The learner was asked to stop."""


class StopRequest:
    """Whether this rank was asked to stop; true from the first signal on."""

    def __init__(self) -> None:
        self._requested = False

    def __call__(self) -> bool:
        return self._requested

    def listen(self) -> None:
        """Takes the signals from now on."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._request)

    def _request(self, *_: object) -> None:
        self._requested = True
