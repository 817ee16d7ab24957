"""AugAvg, the device's half: FedAvg's, and in the first round a vote on what the server knows."""

from dataclasses import replace

import torch
from torch import Tensor

from client_app.adapt import adapt, measure
from client_app.device import Device
from client_app.sgd import local_sgd
from common.methods.augavg import Down, Up


def train(down: Down, device: Device) -> Up:
    """``epochs`` of SGD from the global model."""
    theta = torch.tensor(down.model.vector)
    right = right_rival = 0.0
    if down.rival.specs:
        # Before it trains: for a model that has seen the images they are no test.
        right = _right(theta, down, device)
        right_rival = _right(torch.tensor(down.rival.vector), down, device)
    device.start(down.buffers)
    vector, loss = local_sgd(theta, device.images, device.gradient, down.sgd, down.seed)
    change = down.model.with_vector(vector.sub_(theta).numpy(force=True))
    buffers = device.model.buffers
    return Up(down.round, device.examples, loss, change, buffers, right, right_rival)


def _right(theta: Tensor, down: Down, device: Device) -> float:
    """Share of the query images that ``theta`` is right on after a step on the support images."""
    data, model = replace(device.client, test_labels=torch.zeros(0)), device.model  # none of those
    support = (data.support_images, data.support_labels)
    model.load_buffers(down.buffers)
    adapted = adapt(model, theta, support, down.alpha, steps=1)
    model.load_buffers(down.buffers)
    return measure(model, adapted, data, "support")[0] / len(data.query_labels)
