"""FedDBE, the device's half (arXiv 2311.14975): domain bias eliminator.

    L = CE(h(f(x) + z_i), y) + kappa mean_k 1/2 (m_k - zbar_k)^2,
    m <- (1 - mu) m + mu mean of the batch's f(x), from zero in each round.

The personal bias z_i (PRBM) is learned with the rest and stays. Before the consensus zbar is known,
a round is plain FedAvg and tells the mean of f(x) over the images.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from client_app.batches import Batch
from client_app.device import Device
from client_app.own_part import one_architecture, remember, remembered
from client_app.sgd import local_sgd
from common.data.client import ClientData
from common.errors import SettingsError
from common.methods.feddbe import Down, Up
from common.models import parts
from common.sgd import LocalSgd
from common.tensors import Tensors


def prepare(device: Device) -> None:
    """Before the run: a personal bias of the features becomes one of the head.

    Raises
    ------
    SettingsError: the head has none, or the device's own model is to be another.
    """
    one_architecture(device)
    if parts.head(device.model.module).bias is None:
        raise SettingsError(f"{device.task.architecture}: feddbe needs a head with a bias")


def train(down: Down, device: Device) -> Up:
    """SGD on the network and on z_i, side by side."""
    kept = remembered(device, "feddbe", before=down.round)
    shift = torch.tensor(kept["own"].vector) if kept else _zero(device)
    theta = torch.tensor(down.model.vector)
    device.start(down.buffers)
    means: list[tuple[int, Tensor]] = []
    images = device.images
    vector, shift, loss = _learn(down, device, theta, shift, images, means, down.seed)
    buffers, features = device.model.buffers, None
    if not len(down.consensus):
        count = sum(n for n, _ in means)
        mean = torch.stack([n / count * mean for n, mean in means]).sum(0)
        features = Tensors.pack({"features": mean.numpy()})
    own = Tensors.pack({"bias": shift.numpy()})
    remember(device, "feddbe", down.round, own=own, buffers=Tensors((), {}))
    change = down.model.with_vector(vector.sub_(theta).numpy())
    return Up(down.round, device.examples, loss, change, buffers, features)


def personal(down: Down, device: Device, data: ClientData, steps: int) -> nn.Module:
    """The network with z_i in the bias of its head; a new client learns z_i, ``steps`` passes."""
    kept = remembered(device, "feddbe")
    theta = torch.tensor(down.model.vector)
    shift = torch.tensor(kept["own"].vector) if kept else _zero(device)
    if kept is None and steps:
        device.start(down.buffers)
        support = (data.support_images, data.support_labels)
        alone = down.sgd.model_copy(update={"epochs": steps})
        _, shift, _ = _learn(down, device, theta, shift, support, [], data.client + 1, alone)
    model, head = device.model, parts.head(device.model.module)
    model.load(theta)
    model.load_buffers(down.buffers)
    with torch.no_grad():
        head.bias.add_(head.weight @ shift)  # h(f + z) = W f + (W z + b)
    return model.module


def _learn(
    down: Down,
    device: Device,
    theta: Tensor,
    shift: Tensor,
    data: Batch,
    means: list[tuple[int, Tensor]],
    seed: int,
    alone: LocalSgd | None = None,
) -> tuple[Tensor, Tensor, float]:
    """Network, z_i and loss after training; ``alone`` is how z_i is trained with nothing else."""
    warm, d = not len(down.consensus), len(theta)
    zbar = torch.tensor(down.consensus.vector)
    running = torch.zeros_like(shift)

    def gradient(vector: Tensor, batch: Batch) -> tuple[Tensor, float]:
        nonlocal running
        images, labels = batch
        bias, hard = vector[d:].clone().requires_grad_(), [0.0]

        def loss() -> Tensor:
            nonlocal running
            body, head = parts.split(device.model.module)
            z = body(images)
            entropy = F.cross_entropy(head(z if warm else z + bias), labels)
            hard[0] = float(entropy.detach())
            means.append((len(labels), z.detach().mean(0)))
            if warm:
                return entropy
            mean = (1 - down.momentum) * running + down.momentum * z.mean(0)
            running = mean.detach()
            return entropy + down.kappa * 0.5 * (mean - zbar).square().mean()

        device.model.load(vector[:d])
        grad, _ = device.model.gradient(loss)
        own = torch.zeros_like(bias) if bias.grad is None else bias.grad
        return torch.cat([torch.zeros_like(grad) if alone else grad, own]), hard[0]

    start, sgd = torch.cat([theta, shift]), alone or down.sgd
    vector, loss = local_sgd(start, data, gradient, sgd, seed)
    return vector[:d], vector[d:].clone(), loss


def _zero(device: Device) -> Tensor:
    return torch.zeros(parts.feature_size(device.model.module))
