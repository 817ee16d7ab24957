"""Messages reach the SuperLink also when it is killed while it takes them in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from flwr.app import Message, RecordDict
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

from common.errors import FleetError
from server_app.transport import push as module
from server_app.transport.push import TIMES, push


class Grid:
    """Loses the messages of the first few calls; refuses those to ``refused``."""

    def __init__(self, losses: int = 0, refused: int = 0, takes: bool = True) -> None:
        self.losses, self.refused, self.takes = losses, refused, takes
        self.calls: list[list[Message]] = []

    def push_messages(self, messages: Iterable[Message]) -> list[str | None]:
        self.calls.append(list(messages))
        if len(self.calls) <= self.losses:
            raise ObjectPushError("abc", 1, "session")
        if not self.takes:
            return []
        return [
            None if m.metadata.dst_node_id == self.refused else str(m.metadata.dst_node_id)
            for m in self.calls[-1]
        ]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch, small_sender: None) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.0)


@pytest.fixture
def small_sender() -> None:
    from server_app.transport.in_process import InProcessGrid

    InProcessGrid(lambda *_: None, [], {})  # type: ignore[arg-type]  # sets the sender


def write() -> list[Message]:
    return [Message(RecordDict(), node, "train") for node in (1, 2)]


def pushed(grid: Any) -> list[str | None]:
    return push(grid, write)


def test_lost_messages_are_written_and_sent_anew():
    grid = Grid(losses=2)
    assert pushed(grid) == ["1", "2"]
    assert len(grid.calls) == 3
    assert grid.calls[0][0] is not grid.calls[2][0]


def test_a_superlink_that_loses_all_ends_the_run_with_the_reason():
    grid = Grid(losses=99)
    with pytest.raises(FleetError, match="lost the messages to the nodes 5 times"):
        pushed(grid)
    assert len(grid.calls) == TIMES


def test_one_refused_message_is_none_and_the_others_count():
    assert pushed(Grid(refused=2)) == ["1", None]


def test_messages_that_are_too_large_are_said_to_be():
    with pytest.raises(FleetError, match="too large"):
        pushed(Grid(takes=False))


def test_nothing_to_send():
    grid: Any = Grid()
    assert push(grid, lambda: []) == []
    assert grid.calls == []
