"""FedProx, the device's half (Li et al., 2020): SGD on L(theta) + mu/2 ||theta - theta^t||^2."""

import torch
from torch import Tensor

from client_app.batches import Batch
from client_app.device import Device
from client_app.sgd import local_sgd
from common.methods.fedprox import Down, Up


def train(down: Down, device: Device) -> Up:
    """``epochs`` of SGD from the global model, held near it."""
    theta = torch.tensor(down.model.vector)
    device.start(down.buffers)

    def gradient(vector: Tensor, batch: Batch) -> tuple[Tensor, float]:
        grad, loss = device.gradient(vector, batch)
        return grad.add_(vector - theta, alpha=down.mu), loss

    vector, loss = local_sgd(theta, device.images, gradient, down.sgd, down.seed)
    change = down.model.with_vector(vector.sub_(theta).numpy(force=True))
    return Up(down.round, device.examples, loss, change, device.model.buffers)
