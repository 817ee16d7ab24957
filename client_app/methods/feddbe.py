"""FedDBE, the device's half (arXiv 2311.14975): domain bias eliminator.

    L = CE(h(f(x) + z_i), y) + kappa mean_k 1/2 (m_k - zbar_k)^2,
    m <- (1 - mu) m + mu mean of the batch's f(x), from zero in each round.

The personal bias z_i (PRBM) is learned with the rest and stays. Before the consensus zbar is known,
a round is plain FedAvg and tells the mean of f(x) over the images.
"""

import torch
from torch import Tensor, nn

from client_app.device import Device
from client_app.own_part import Loss, learn, learn_anew, one_architecture, remember, remembered
from common.data.client import ClientData
from common.methods.feddbe import Down, Up
from common.models import FlatModel, parts
from common.models.conditional import Shifted
from common.tensors import Tensors

prepare = one_architecture


def train(down: Down, device: Device) -> Up:
    """SGD on the network and on z_i, side by side."""
    model = Shifted(device.task.build())
    whole = _open(down, model, remembered(device, "feddbe", before=down.round))
    only = None if len(down.consensus) else [n for n, _ in model.named_parameters() if n != "bias"]
    means: list[tuple[int, Tensor]] = []
    minimised = _loss(down, model, means)
    loss = learn(device, device.images, down.sgd, down.seed, only, whole, minimised)
    own, nothing = whole.parameters.only({"bias"}), Tensors((), {})
    remember(device, "feddbe", down.round, own=own, buffers=nothing)
    after, features = FlatModel(model.network), None
    if not len(down.consensus):
        counts, rows = torch.tensor([n for n, _ in means]), torch.stack([mean for _, mean in means])
        features = Tensors.pack({"features": (counts / counts.sum() @ rows).numpy(force=True)})
    change = down.model.with_vector(after.vector.numpy(force=True) - down.model.vector)
    return Up(down.round, device.examples, loss, change, after.buffers, features)


def personal(down: Down, device: Device, data: ClientData, steps: int) -> nn.Module:
    """The network with z_i in the bias of its head; a new client learns z_i, ``steps`` passes."""
    kept, model = remembered(device, "feddbe"), Shifted(device.task.build())
    whole = _open(down, model, kept)
    if kept is None and steps:
        learn_anew(device, data, down.sgd, steps, ["bias"], whole)
    head = parts.head(model.network)
    with torch.no_grad():
        shift = head.weight @ model.bias  # h(f + z) = W f + (W z + b)
        head.bias = nn.Parameter(shift if head.bias is None else head.bias + shift)
    return model.network


def _open(down: Down, model: Shifted, kept: dict[str, Tensors] | None) -> FlatModel:
    network = FlatModel(model.network)
    network.load_tensors(down.model)
    network.load_buffers(down.buffers)
    if kept is not None:
        model.bias.data.copy_(torch.tensor(kept["own"].vector))
    return FlatModel(model)


def _loss(down: Down, model: Shifted, means: list[tuple[int, Tensor]]) -> Loss:
    zbar, running = torch.tensor(down.consensus.vector), torch.zeros_like(model.bias)

    def minimised(images: Tensor, labels: Tensor) -> Tensor:
        nonlocal running
        features = model.features(images)
        means.append((len(labels), features.detach().mean(0)))
        entropy = nn.functional.cross_entropy(model.logits(features), labels)
        if not len(zbar):
            return entropy
        mean = (1 - down.momentum) * running + down.momentum * features.mean(0)
        running = mean.detach()
        return entropy + down.kappa * 0.5 * (mean - zbar).square().mean()

    return minimised
