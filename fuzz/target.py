"""From the bytes of a message to a contract, as the server does it; anything else is a finding.

The first byte chooses the contract, the rest is a Flower message as protobuf. What protobuf or
Flower cannot read ends as "message" at the gate; what they can must be refused by the gate or fit.
"""

from __future__ import annotations

from typing import Any

from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import Message as ProtoMessage

from common import enrolment, evaluation
from common.methods import augfl, fed_lpfm, fedavg
from common.tensors import Tensors
from server_app.aggregation.expected import Exactly, Vector
from server_app.transport.polling import UNREADABLE
from server_app.validation.errors import Rejected
from server_app.validation.message import Asked, check, read

CONTRACTS: tuple[type, ...] = (
    augfl.Up, fedavg.Up, fed_lpfm.Up, evaluation.Up, enrolment.Up, fed_lpfm.Down,
)  # fmt: skip
MODEL = (("weight", (2, 3), "float32"), ("bias", (2,), "float32"))
BUFFERS = (("mean", (2,), "float32"), ("count", (), "int64"))
EXPECTED = {"change": Vector(MODEL), "buffers": Exactly(BUFFERS)}


def decode(data: bytes) -> Any:
    """The contract in ``data``; None if it is refused.

    Raises
    ------
    Exception: whatever the decoder should not raise.
    """
    if not data:
        return None
    contract = CONTRACTS[data[0] % len(CONTRACTS)]
    try:
        message = message_from_proto(ProtoMessage.FromString(data[1:]))
        if not message.has_content() or message.has_error():
            return None
        meta = message.metadata
        # Origins are compared for equality alone; a fuzzer need not guess them.
        asked = Asked(meta.src_node_id, meta.reply_to_message_id, meta.run_id, meta.message_type)
    except UNREADABLE:
        return None
    try:
        content = check(message, asked, EXPECTED).content
        up = read(contract, content)
    except Rejected:
        return None
    for value in vars(up).values():
        if isinstance(value, Tensors):
            value.unpack()
    return up
