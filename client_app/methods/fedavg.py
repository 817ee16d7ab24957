"""FedAvg, the device's half: local SGD on all its images (McMahan et al., 2017)."""

import torch

from client_app.device import Device
from client_app.sgd import local_sgd
from common.methods.fedavg import Down, Up


def train(down: Down, device: Device) -> Up:
    """``epochs`` of SGD from the global model."""
    images, labels = device.images
    theta = torch.tensor(down.model.vector)
    device.model.load_buffers(down.buffers)
    device.model.module.train()
    vector, loss = local_sgd(
        theta, (images, labels), device.gradient,
        lr=down.lr, momentum=down.momentum, epochs=down.epochs,
        batch_size=down.batch_size, seed=down.seed,
    )  # fmt: skip
    change = down.model.with_vector(vector.sub_(theta).numpy())
    return Up(down.round, change, device.model.buffers, len(labels), loss)
