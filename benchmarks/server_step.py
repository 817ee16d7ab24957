"""Time of the server's whole step over one read of the same bytes.

    python -m benchmarks.server_step

100 replies of 1.2 million parameters each. "read" adds the same vectors up with plain NumPy, the
least that any average must do. "AugFL" is the server's half from the message to the new model:
decode, all checks of the gate, sum, equation (13). "Flower" is the aggregation of its FedAvg on
the same numbers, which checks nothing. All three take turns in one process.
"""

from __future__ import annotations

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from benchmarks.machine import footer, milliseconds
from common.methods.augfl import Up
from common.models import FlatModel, build
from common.sketch import sketch
from common.wire import pack, size
from server_app.aggregation.replies import Offer, Replies
from server_app.method import Setup, Source
from server_app.methods.augfl import Server, Settings
from server_app.transport.in_process import InProcessGrid
from server_app.validation.gate import Gate, Sizes, check_fields
from server_app.validation.message import Asked, check, read

CLIENTS, TURNS = 100, 7


def main() -> None:
    """Print the table."""
    model = FlatModel(build("resnet8x4", classes=10, channels=3, image_size=32)).parameters
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=len(model)).astype(np.float32) for _ in range(CLIENTS)]
    InProcessGrid(lambda *_: None, [], {})  # type: ignore[arg-type]  # sets the sender
    messages = [
        _reply(
            node,
            pack(Up(1, 30, 0.5, 0, model.with_vector(vector), sketch(vector).tolist(), 1.0)),
        )
        for node, vector in enumerate(vectors)
    ]
    named = [
        RecordDict(
            {
                "arrays": ArrayRecord(
                    {n: Array(a) for n, a in model.with_vector(vector).unpack().items()}
                ),
                "metrics": MetricRecord({"num-examples": 30}),
            }
        )
        for vector in vectors
    ]

    def plain() -> None:
        total = np.zeros_like(vectors[0])
        for vector in vectors:
            total += vector

    def augfl() -> None:
        server = Server(Settings.model_validate({"lambda": 0.0}), Setup(model))
        gate = Gate()
        for node in range(CLIENTS):
            server.enrol(node, Source(30))
        replies = Replies(server)
        for node, message in enumerate(messages):
            asked = Asked(node, "", 1, "train.augfl")

            def examine(message: Message = message, asked: Asked = asked) -> tuple[Offer, Sizes]:
                expected = server.expects(asked.node)
                up = read(Up, check(message, asked, expected).content)
                check_fields(up, 1, 30, expected)
                offer = replies.offer(asked.node, up)
                return offer, offer.compared

            replies.accept(gate.admit(1, node, examine))
        server.step(1, replies)

    def flower() -> None:
        aggregate_arrayrecords(named, "num-examples")

    times = np.array([[milliseconds(f) for f in (plain, augfl, flower)] for _ in range(TURNS + 1)])[
        1:
    ]
    print(f"{CLIENTS} clients, {len(model):,} parameters, {torch.get_num_threads()} threads\n")
    print("| step | ms | times one read (quartiles) |")
    print("| --- | --- | --- |")
    for name, column in zip(
        ("read", "AugFL, checks included", "Flower's FedAvg"), times.T, strict=True
    ):
        low, middle, high = np.percentile(column / times[:, 0], [25, 50, 75])
        print(f"| {name} | {np.median(column):.0f} | {middle:.2f} ({low:.2f} to {high:.2f}) |")
    one = size(messages[0].content)
    print(
        f"\nUp: {one:,} bytes a client and round; theta_i and y_i would be {2 * 4 * len(model):,}"
    )
    print("\n" + footer("python -m benchmarks.server_step"))


def _reply(node: int, content: RecordDict) -> Message:
    message = Message(RecordDict(), node, "train.augfl")
    return Message(content, reply_to=message)


if __name__ == "__main__":
    main()
