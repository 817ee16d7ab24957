"""Per-FedAvg, the device's half (Fallah et al., 2020, algorithm 1): tau local meta-steps.

First-order (FO) takes r for the meta-gradient; Hessian-free (HF) subtracts alpha H r with H on
its own batch D'', by a central difference.
"""

import torch

from client_app.batches import sample
from client_app.device import Device
from client_app.meta import meta_gradient
from common.methods.per_fedavg import Down, Up

_DIFFERENCE = {"first-order": "none", "hessian-free": "central"}


def train(down: Down, device: Device) -> Up:
    """``steps`` meta-steps from the global model."""
    data, theta = device.client, torch.tensor(down.model.vector)
    generator = torch.Generator().manual_seed(down.seed)
    device.model.module.train()
    vector, loss = theta.clone(), 0.0
    for _ in range(down.steps):
        support = sample(data.support_images, data.support_labels, down.batch_size, generator)
        query = sample(data.query_images, data.query_labels, down.batch_size, generator)
        again = sample(data.support_images, data.support_labels, down.batch_size, generator)
        meta = meta_gradient(
            device, vector, support, query,
            alpha=down.alpha, delta=down.delta, difference=_DIFFERENCE[down.variant],
            hessian_batch=again,
        )  # fmt: skip
        vector.sub_(meta.vector, alpha=down.beta)
        loss += meta.loss / down.steps
    change = down.model.with_vector(vector.sub_(theta).numpy(force=True))
    return Up(down.round, device.examples, loss, change)
