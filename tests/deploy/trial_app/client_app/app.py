"""A device that does as it is told: trains, raises, or ends its own process."""

import os
import random
import signal

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def query(message: Message, context: Context) -> Message:
    order = str(message.content["order"]["do"])
    if order == "raise":
        raise RuntimeError("as ordered")
    if order == "exit":
        os._exit(0)
    if order == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    seen = int(context.state["seen"]["messages"]) + 1 if "seen" in context.state else 1
    context.state["seen"] = MetricRecord({"messages": seen})
    weights = message.content["weights"]["flat"].numpy()
    layer = torch.nn.Linear(4, 1)
    layer(torch.ones(2, 4)).sum().backward()
    facts = ConfigRecord(
        {
            "pid": os.getpid(),
            "parent": os.getppid(),
            "seen": seen,
            "name": str(context.node_config.get("name", "")),
            "file": __file__,
            "random": [random.random(), float(np.random.rand()), float(torch.rand(()))],
        }
    )
    up = ArrayRecord({"flat": Array(weights + 1)})
    return Message(RecordDict({"facts": facts, "weights": up}), reply_to=message)
