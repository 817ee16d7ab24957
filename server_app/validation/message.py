"""What holds for a reply of any kind: it answers what was asked, has the right size and fits.

Flower hands over what the sender wrote, metadata included, and checks nothing of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeVar

from flwr.app import Message, RecordDict

from common.errors import WireError
from common.wire import PIECE, unpack
from server_app.aggregation.expected import Expected
from server_app.aggregation.expected import size as tensors_size
from server_app.transport.polling import Unreadable
from server_app.transport.told import Refused, Told
from server_app.validation.errors import Rejected

Contract = TypeVar("Contract")

NOTHING: Expected = {}
PLAIN = 2**20
"""Bytes, at most, of all fields that are no tensors."""

RECORDS = 32
"""At most in one message, beside those of pieces of long vectors."""


@dataclass(frozen=True)
class Asked:
    """What a reply must be an answer to.

    Attributes
    ----------
    node: id of the node that was asked.
    message: id of the message to it.
    run: Flower's id of the run.
    kind: message type, such as "train.augfl".
    """

    node: int
    message: str
    run: int
    kind: str


def check(
    reply: Message | Unreadable | Told | None, asked: Asked, expected: Expected = NOTHING
) -> Message:
    """A reply of which all is right that is around its content: origin, what it answers, size.

    Parameters
    ----------
    expected: the tensors that may come with it; they bound its size.

    Raises
    ------
    Rejected: it is none of ours, or too large.
    """
    if isinstance(reply, Unreadable):
        raise Rejected("message", reply.reason)
    if isinstance(reply, Refused):
        raise Rejected(reply.field, reply.reason, reply.excessive)
    if not isinstance(reply, Message) or not reply.has_content():
        failed = isinstance(reply, Message) and reply.error.reason
        raise Rejected("message", failed or "is missing")
    metadata = reply.metadata
    for field, got, wanted in (
        ("node", metadata.src_node_id, asked.node),
        ("run", metadata.run_id, asked.run),
        ("message-type", metadata.message_type, asked.kind),
        ("reply-to", metadata.reply_to_message_id, asked.message),
    ):
        if got != wanted:
            raise Rejected(field, f"is {str(got)[:80]!r}, expected {wanted!r}")
    if not math.isfinite(metadata.created_at):
        raise Rejected("created-at", f"is {metadata.created_at}")
    _check_size(reply.content, PLAIN + sum(tensors_size(p.largest) for p in expected.values()))
    return reply


def read(contract: type[Contract], content: RecordDict) -> Contract:
    """The content as a contract.

    Raises
    ------
    Rejected: it does not fit.
    """
    try:
        return unpack(contract, content)
    except WireError as error:
        where = f"{contract.__module__}.{contract.__qualname__}.{error.field}"
        reason = str(error).removeprefix(where).removeprefix(": ")
        raise Rejected(error.field, reason, error.excessive) from None


def _check_size(content: RecordDict, most: int) -> None:
    if len(content) > (possible := RECORDS + most // PIECE):
        raise Rejected("size", f"{len(content)} records, at most {possible}")
    total = 0
    for name, record in content.items():
        total += len(name)
        for key, value in record.items():
            total += len(key) + _bytes(value)
            if total > most:
                raise Rejected("size", f"more than {most:,} bytes")


def _bytes(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, list):
        return sum(8 + (len(v) if isinstance(v, str | bytes) else 0) for v in value)
    return 8
