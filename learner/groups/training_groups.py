"""Groups to learn from: they stay on the stream until a checkpoint holds what was learned from them."""

from collections.abc import Callable

from learner.connection.images import RunImages
from learner.connection.session import RedisSession
from vision_sr1.config import Config
from vision_sr1.pipeline.arrivals import GroupArrivals
from vision_sr1.pipeline.lost_prompts import LostPrompts
from vision_sr1.streams import Entry, Stream
from vision_sr1.v1 import pipeline_pb2 as pb

STREAM = "scored"


class TrainingGroups:
    """The stream `scored` as the learner sees it. Rank 0 alone calls it."""

    def __init__(self, config: Config, session: RedisSession, images: RunImages) -> None:
        self._session = session
        self._images = images
        self._group_size = config.sampling.group_size
        self._arrivals = GroupArrivals(
            Stream(
                session.redis, session.keys, STREAM, config.streams, group="learner", consumer="learner", claims=False
            )
        )
        self._lost_prompts = LostPrompts(session.redis, session.keys)
        self._collected: dict[str, Entry] = {}  # by prompt id, until a checkpoint holds them
        self._early: dict[str, tuple[Entry, pb.ScoredGroup]] = {}  # by id of prompts that are to come

    def open(self) -> None:
        """Makes the consumer group."""
        self._session.run(self._arrivals.open())

    def collect(
        self, wanted: set[str], count: int, wait_s: float, is_to_come: Callable[[str], bool]
    ) -> list[pb.ScoredGroup]:
        """Up to `count` groups that are wanted and there, or that come within `wait_s`.

        Args:
            is_to_come: whether a prompt will be issued later; its group is kept until then.
        """
        early = sorted(wanted & self._early.keys())[:count]
        groups = []
        for prompt_id in early:
            self._collected[prompt_id], group = self._early.pop(prompt_id)
            groups.append(group)
        for entry, group in [] if groups else self._session.run(self._arrivals.next(count, wait_s)):
            if entry.item in wanted and entry.item not in self._collected:
                self._collected[entry.item] = entry
                groups.append(group)
            elif is_to_come(entry.item):
                self._early[entry.item] = entry, group
            else:
                self._session.run(self._arrivals.discard_stray(entry))
        return groups

    def acknowledge(self, prompt_ids: list[str]) -> None:
        """Removes the groups of these prompts from the stream: a checkpoint holds what was learned from them."""
        held = [entry for prompt_id in prompt_ids if (entry := self._collected.pop(prompt_id, None))]
        self._session.run(self._arrivals.acknowledge(held))
        self._images.release(prompt_ids)

    def acknowledge_all(self) -> None:
        """Removes all: the run is complete."""
        self._session.run(self._arrivals.acknowledge_all())

    def lost(self, wanted: set[str]) -> list[str]:
        """Prompts that the streams have lost: they are to be issued again."""
        lost: list[str] = self._session.run(self._lost_prompts.find(wanted, STREAM, self._group_size))
        return lost

    def recover(self) -> None:
        """After an interruption: finds what arrived, whoever led the run then.

        A server that comes back without its last writes has entries again that were acknowledged.
        """
        entries = [*self._collected.values(), *(entry for entry, _ in self._early.values())]
        self._session.run(self._arrivals.recover({entry.entry_id for entry in entries}))
