"""FedAvg, the device's half: local SGD on all its images (McMahan et al., 2017)."""

import torch

from client_app.device import Device
from client_app.sgd import local_sgd
from common.methods.fedavg import Down, Up


def train(down: Down, device: Device) -> Up:
    """``epochs`` of SGD from the global model."""
    theta = torch.tensor(down.model.vector)
    device.start(down.buffers)
    vector, loss = local_sgd(theta, device.images, device.gradient, down.sgd, down.seed)
    change = down.model.with_vector(vector.sub_(theta).numpy(force=True))
    return Up(down.round, device.examples, loss, change, device.model.buffers)
