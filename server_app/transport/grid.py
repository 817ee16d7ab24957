"""What all Grids of AugFlower have in common, and what else they may be asked."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Sequence

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from server_app.transport.told import Told


class PullingGrid(Grid, ABC):
    """A Grid that never waits for a reply: who wants to wait pulls again."""

    def arrived(self, message_ids: Sequence[str]) -> list[str]:
        """Messages whose replies may be there, in the order given."""
        return list(message_ids)

    def has_begun(self, message_id: str) -> bool:
        """Whether a reply has come in part, where that can be known."""
        return False

    def forget(self, message_id: str) -> None:
        """Drop what has come of a reply that nobody waits for any more."""

    def leaf(self, node: int) -> str:
        """The name of the leaf behind which a node stands; empty if it stands behind none."""
        return ""

    def told(self, message_id: str) -> Told | None:
        """What a leaf tells in the place of a reply."""
        return None

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


class WrappingGrid(PullingGrid, ABC):
    """A Grid before another one, of whose run it is."""

    def __init__(self, inner: Grid) -> None:
        self._inner = inner

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._inner.set_run(run)

    @property
    def run(self) -> Run:
        """The run."""
        return self._inner.run

    def get_node_ids(self) -> Iterable[int]:
        """Ids of the nodes that are online."""
        return [node.node_id for node in self.get_nodes()]


def arrived(grid: Grid, message_ids: Sequence[str]) -> list[str]:
    """Messages whose replies may be there, in the order given."""
    return grid.arrived(message_ids) if isinstance(grid, PullingGrid) else list(message_ids)


def has_begun(grid: Grid, message_id: str) -> bool:
    """Whether a reply has come in part, where that can be known."""
    return isinstance(grid, PullingGrid) and grid.has_begun(message_id)


def forget(grid: Grid, message_id: str) -> None:
    """Drop what has come of a reply that nobody waits for any more."""
    if isinstance(grid, PullingGrid):
        grid.forget(message_id)
