"""Frozen features: what a backbone that nobody trains makes of a client's images, computed once.

Where the head alone is trained, features take the place of images, and a network that is the head
and nothing else that of the model. They are kept on disk from run to run, so that a device on which
no image is new need not load the backbone.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from client_app.teachers.cache import Table, digest, keys_of
from client_app.teachers.weights import fingerprint
from common.data.client import ClientData
from common.models.initial import weights_file
from common.models.parts import split
from common.task import Task

_AT_ONCE = 64


def on_features(
    clients: list[ClientData], task: Task, folder: Path | None
) -> tuple[list[ClientData], Task]:
    """The clients' data with features, shape (n, f), in place of images, and the task of the head.

    Parameters
    ----------
    folder: of the cache; without it, features last as long as this process.

    Raises
    ------
    ModelError: see ``Task.build``.
    """
    table = None
    if folder:
        name = digest(_identity(task, folder / "weights.json"))
        table = Table(folder / f"{name}.safetensors", np.float32)
    return [_with_features(data, task, table) for data in clients], replace(task, features=True)


def _with_features(data: ClientData, task: Task, table: Table | None) -> ClientData:
    parts = (data.support_images, data.query_images, data.test_images)
    support, query, test = (_features(part, task, table) for part in parts)
    return replace(data, support_images=support, query_images=query, test_images=test)


def _features(images: Tensor, task: Task, table: Table | None) -> Tensor:
    if not len(images):
        return images
    if table is None:
        return _computed(images, task)
    keys = keys_of(images.numpy(force=True))
    if missing := table.missing(keys):
        table.add([keys[i] for i in missing], _computed(images[missing], task).numpy(force=True))
        table.save()
    return torch.from_numpy(table.get(keys))


def _computed(images: Tensor, task: Task) -> Tensor:
    body, where = _body(task), torch.get_default_device()
    with torch.no_grad():
        return torch.cat([body(part.to(where)).cpu() for part in images.split(_AT_ONCE)])


@lru_cache(maxsize=1)
def _body(task: Task) -> nn.Module:
    return split(task.build().eval())[0]


def _identity(task: Task, notes: Path) -> list[object]:
    """What features depend on: the network, and the file of its weights if it is one."""
    path = weights_file(task.backbone)
    if path is None:
        return [str(task)]
    return [str(replace(task, backbone="")), fingerprint(path, notes)]
