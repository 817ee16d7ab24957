"""MOON, the device's half (arXiv 2103.16257): model-contrastive learning.

    L = CE - mu log( e^{s(z_glob)} / (e^{s(z_glob)} + e^{s(z_prev)}) ),    s(z') = cos(z, z') / tau

z are the features of the model in training, of the global one and of the client's last one, which
is the global one where there is none yet.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from client_app.batches import Batch
from client_app.device import Device
from client_app.own_part import remember, remembered
from client_app.sgd import local_sgd
from common.methods.moon import Down, Up
from common.models import features_and_logits, parts
from common.tensors import Tensors

_AT_ONCE = 64


def train(down: Down, device: Device) -> Up:
    """``epochs`` of SGD from the global model."""
    images, labels = device.images
    kept = remembered(device, "moon", before=down.round)
    there = _features(device, down.model, down.buffers, images)
    before = _features(device, kept["own"], kept["buffers"], images) if kept else there
    theta = torch.tensor(down.model.vector)
    device.start(down.buffers)
    contrasts: list[tuple[int, float]] = []

    def gradient(vector: Tensor, batch: Batch) -> tuple[Tensor, float]:
        inputs, rows = batch
        values = [0.0]

        def loss() -> Tensor:
            z, logits = features_and_logits(device.model.module, inputs)
            hard = F.cross_entropy(logits, labels[rows])
            near = [F.cosine_similarity(z, other[rows]) for other in (there, before)]
            scores = torch.stack(near, 1) / down.temperature
            contrast = F.cross_entropy(scores, torch.zeros_like(rows))
            values[0] = float(hard.detach())
            contrasts.append((len(rows), float(contrast.detach())))
            return hard + down.mu * contrast

        device.model.load(vector)
        grad, _ = device.model.gradient(loss)
        return grad, values[0]

    rows = torch.arange(len(labels))
    vector, loss = local_sgd(theta, (images, rows), gradient, down.sgd, down.seed)
    own, buffers = down.model.with_vector(vector.numpy(force=True)), device.model.buffers
    remember(device, "moon", down.round, own=own, buffers=buffers)
    contrast = sum(n * value for n, value in contrasts) / sum(n for n, _ in contrasts)
    change = own.with_vector(own.vector - down.model.vector)
    return Up(down.round, device.examples, loss, change, buffers, contrast)


def _features(device: Device, model: Tensors, buffers: Tensors, images: Tensor) -> Tensor:
    """Of a fixed model for all images, shape (n, K)."""
    device.model.load_tensors(model)
    device.model.load_buffers(buffers)
    body, _ = parts.split(device.model.module.eval())
    with torch.no_grad():
        return torch.cat([body(some) for some in images.split(_AT_ONCE)])
