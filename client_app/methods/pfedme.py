"""pFedMe, the device's half (arXiv 2006.08848, algorithm 1).

For each mini-batch, K steps towards argmin_theta F_i(theta) + lambda / 2 ||theta - w_i||^2, which
begin where the last ended, and then one on w_i, down the gradient of the Moreau envelope:

    w_i <- w_i - eta lambda (w_i - theta_i)
"""

import torch
from torch import Tensor, nn

from client_app.batches import Batch, epoch
from client_app.device import Device
from client_app.own_part import one_architecture, remember, remembered
from client_app.sgd import Gradient
from common.data.client import ClientData
from common.methods.pfedme import Down, Up

prepare = one_architecture


def train(down: Down, device: Device) -> Up:
    """``epochs`` over all images."""
    kept = remembered(device, "pfedme", before=down.round)
    start = kept["own"] if kept else down.model
    device.start(down.buffers)
    w = torch.tensor(down.model.vector)
    theta, loss = _learn(
        down, device.gradient, torch.tensor(start.vector), w, device.images, down.seed
    )
    own, buffers = down.model.with_vector(theta.numpy(force=True)), device.model.buffers
    remember(device, "pfedme", down.round, own=own, buffers=buffers)
    change = down.model.with_vector(w.numpy(force=True) - down.model.vector)
    return Up(down.round, device.examples, loss, change, buffers)


def personal(down: Down, device: Device, data: ClientData, steps: int) -> nn.Module:
    """theta_i; that of a new client learns ``steps`` passes over its support images, near w."""
    kept = remembered(device, "pfedme")
    if kept is None:
        kept = {"own": down.model, "buffers": down.buffers}
        device.start(down.buffers)
        theta = torch.tensor(down.model.vector)
        support = (data.support_images, data.support_labels)
        for step in range(steps):
            w = torch.tensor(down.model.vector)
            theta, _ = _learn(down, device.gradient, theta, w, support, data.client + 1 + step)
        kept = {
            "own": down.model.with_vector(theta.numpy(force=True)),
            "buffers": device.model.buffers,
        }
    device.model.load_tensors(kept["own"])
    device.model.load_buffers(kept["buffers"])
    return device.model.module


def _learn(
    down: Down, gradient: Gradient, theta: Tensor, w: Tensor, data: Batch, seed: int
) -> tuple[Tensor, float]:
    """Moves ``w`` in place; gives theta_i and its mean loss at the end of each mini-batch."""
    generator = torch.Generator().manual_seed(seed)
    total, seen, eta = 0.0, 0, down.sgd.lr
    velocity = torch.zeros_like(theta)
    for _ in range(down.sgd.epochs):
        for batch in epoch(*data, down.sgd.batch_size, generator):
            for _ in range(down.own_steps):
                grad, loss = gradient(theta, batch)
                grad.add_(theta - w, alpha=down.pull).add_(theta, alpha=down.sgd.weight_decay)
                velocity.mul_(down.sgd.momentum).add_(grad)
                theta = theta.sub(velocity, alpha=down.own_lr)
            w.sub_(w - theta, alpha=eta * down.pull)
            total, seen = total + loss * len(batch[1]), seen + len(batch[1])
    return theta, total / seen
