"""What all Grids of AugFlower have in common."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid


class PullingGrid(Grid, ABC):
    """A Grid that never waits for a reply: who wants to wait pulls again."""

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to one node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push, and pull once."""
        return self.pull_messages(self.push_messages(messages))
