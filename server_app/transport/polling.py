"""Take a reply that is there, and look which are."""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid
from google.protobuf.message import DecodeError

from server_app.transport.grid import PullingGrid
from server_app.transport.told import Told

UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError, DecodeError)
"""What Flower raises where it puts a reply together that a node has put together badly."""


@dataclass(frozen=True)
class Unreadable:
    """Stands for a reply that is none."""

    reason: str


def pull(grid: Grid, message_id: str) -> Message | Unreadable | Told | None:
    """The reply to a message, with an error or with content, if it is there."""
    if isinstance(grid, PullingGrid) and (told := grid.told(message_id)) is not None:
        return told
    try:
        reply = next(iter(grid.pull_messages([message_id])), None)
        if reply is None or reply.has_error() or reply.has_content():
            return reply
    except UNREADABLE as error:
        return Unreadable(f"cannot be read: {type(error).__name__}: {error}")
    return Unreadable("has neither content nor error")
