"""A server that gives the orders of its plan, one round each, and writes down what came back."""

import json
import os
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from common.backoff import shorten_backoff

app = ServerApp()


def exchange(grid: Grid, order: str, nodes: list[int], floats: int, deadline: float) -> list[dict]:
    weights = ArrayRecord({"flat": Array(np.zeros(floats, np.float32))})
    content = {"order": ConfigRecord({"do": order}), "weights": weights}
    messages = [Message(RecordDict(dict(content)), node, "query") for node in nodes]
    waiting, replies = set(grid.push_messages(messages)), []
    end = time.monotonic() + deadline
    while waiting and time.monotonic() < end:
        for reply in grid.pull_messages(waiting):
            waiting.discard(reply.metadata.reply_to_message_id)
            replies.append(
                {"error": reply.error.code}
                if reply.has_error()
                else dict(reply.content["facts"])
                | {"sum": float(reply.content["weights"]["flat"].numpy().sum())}
            )
        time.sleep(0.05)
    return replies


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    if config["quick"]:
        shorten_backoff()
    while len(nodes := sorted(grid.get_node_ids())) < int(config["nodes"]):
        time.sleep(0.1)
    rounds = []
    for order in str(config["plan"]).split():
        start = time.monotonic()
        replies = exchange(grid, order, nodes, int(config["floats"]), float(config["deadline"]))
        rounds.append({"order": order, "seconds": time.monotonic() - start, "replies": replies})
        record = {"rounds": rounds, "secret": os.environ.get("TRIAL_SECRET", "")}
        Path(str(config["out"])).write_text(json.dumps(record))
