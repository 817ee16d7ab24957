"""FedALA, the device's half (arXiv 2212.01197, algorithm 1): adaptive local aggregation, then SGD.

The top layers begin as an element-wise mixture of the global and the old local model,

    Theta_hat = Theta + (Theta_i - Theta) (1 - W),
    W <- clip(W - eta grad_{Theta_hat} L (Theta - Theta_i), 0, 1),

all others as the global ones. W begins as ones and is kept from round to round.
"""

import torch
from torch import Tensor, nn

from client_app.batches import epoch
from client_app.device import Device
from client_app.own_part import Part, learn, learn_anew, one_architecture, remember, remembered
from common.data.client import ClientData
from common.methods.fedala import Down, Up
from common.tensors import Tensors

prepare = one_architecture


def train(down: Down, device: Device) -> Up:
    """Weights, mixture, and ``epochs`` of SGD."""
    device.start(down.buffers)
    device.model.load_tensors(down.model)
    kept = remembered(device, "fedala", before=down.round)
    weights = _mix(down, device, kept) if kept else torch.zeros(0)
    own_share = float((1 - weights).mean()) if len(weights) else 0.0
    loss = learn(device, device.images, down.sgd, down.seed)
    now, buffers = device.model.parameters, device.model.buffers
    known = Tensors.pack({"weights": weights.numpy(force=True)})
    remember(device, "fedala", down.round, own=now, buffers=buffers, weights=known)
    change = now.with_vector(now.vector - down.model.vector)
    return Up(down.round, device.examples, loss, change, buffers, own_share)


def personal(down: Down, device: Device, data: ClientData, steps: int) -> nn.Module:
    """The local model as it was trained last; a new client trains the global one."""
    kept = remembered(device, "fedala")
    device.model.load_tensors(kept["own"] if kept else down.model)
    device.model.load_buffers(kept["buffers"] if kept else down.buffers)
    if kept is None and steps:
        learn_anew(device, data, down.sgd, steps)
    return device.model.module


def _mix(down: Down, device: Device, kept: dict[str, Tensors]) -> Tensor:
    """Put the mixture into the device's network; gives its weights W, shape (top,)."""
    model, part = device.model, Part(device.model.module, down.top)
    if not part.moving:
        return torch.zeros(0)
    theta = part.take(model.vector).clone()
    apart, known = part.take(torch.tensor(kept["own"].vector)) - theta, kept["weights"].vector
    first = len(known) != len(theta)
    weights = torch.ones_like(theta) if first else torch.tensor(known)
    generator = torch.Generator().manual_seed(down.seed)
    count = device.examples
    chosen = torch.randperm(count, generator=generator, device="cpu")
    chosen = chosen[: max(1, round(down.share * count))]
    images, labels = (values[chosen] for values in device.images)
    losses, mixed = list[float](), model.vector.clone()
    with part.alone():
        for _ in range(down.first_epochs if first else down.weight_epochs):
            for batch in epoch(images, labels, down.sgd.batch_size, generator):
                part.put(mixed, theta + apart * (1 - weights))
                grad, loss = device.gradient(mixed, batch)
                weights = (weights + down.weight_lr * part.take(grad) * apart).clamp_(0, 1)
                losses.append(loss)
            if first and len(losses) > 10 and torch.tensor(losses[-10:]).std() < down.settled:
                break
    part.put(model.vector, theta + apart * (1 - weights))
    return weights
