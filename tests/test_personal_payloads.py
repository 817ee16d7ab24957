"""What personal methods send, in numbers, for PFLlib's 4-layer CNN and Fashion-MNIST."""

from __future__ import annotations

import math

import pytest

import server_app.methods
from common import registry
from common.models import FlatModel
from common.task import Task
from server_app.aggregation.replies import EMPTY
from server_app.method import Setup

WHOLE, HEAD, POLICY, CLASSES = 582_026, 5_130, 527_360, 5_120
UP = {
    "local": 0,
    "fedavg": WHOLE,
    "ditto": WHOLE,
    "pfedme": WHOLE,
    "fedala": WHOLE,
    "moon": WHOLE,
    "feddbe": WHOLE,
    "fedbn": WHOLE,  # it has no normalisation layers
    "fedper": WHOLE - HEAD,
    "fedrep": WHOLE - HEAD,
    "gpfl": WHOLE - HEAD + CLASSES + POLICY,
    "fedcp": WHOLE + POLICY,
}
OWN = {"fedper": HEAD, "fedrep": HEAD, "gpfl": HEAD, "fedcp": HEAD, "local": WHOLE}


@pytest.mark.parametrize("name", UP)
def test_numbers_up_and_down(name: str):
    half, task = registry.load(server_app.methods, name), Task("cnn-5x5", 10, 1, 28)
    model = FlatModel(task.build())
    server = half.Server(half.Settings(), Setup(model.parameters, EMPTY, task=task))
    expected = server.expects(0)
    sent = sum(math.prod(shape) for _, shape, _ in expected["change"].specs) if expected else 0
    assert sent == UP[name]
    down = server.broadcast(1, 0)
    # With what a client that has nothing of its own begins with.
    assert len(down.model) == UP[name] + OWN.get(name, 0)
    assert not len(down.buffers)
    if name == "feddbe":
        [(_, width, _)] = expected["features"].specs
        assert width == (512,)
