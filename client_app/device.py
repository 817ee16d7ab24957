"""What a device has: its data, its memory between rounds, its model and its limits."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from flwr.app import Context
from torch import Tensor

from client_app.batches import Batch
from client_app.frozen import on_features
from client_app.memory import Memory
from client_app.pictures import Pictures, pictures_of_folder, pictures_of_set
from client_app.settings import NodeSettings, played_clients, read_node_config
from common.config import RunSettings
from common.data.client import ClientData, client_data
from common.data.folder import image_hashes, load_folder_split
from common.data.load import load
from common.data.plan import plan
from common.errors import DataError
from common.models import FlatModel
from common.models.initial import absolute
from common.models.light import Tuning
from common.models.widths import Where, groups_of, part
from common.task import Task, hollow
from common.tensors import Tensors

if TYPE_CHECKING:
    from client_app.teachers.answers import Teachers


class Device:
    """One node during one run.

    Attributes
    ----------
    role: "source" trains, "target" only adapts.
    clients: the data of each client that it plays; a source plays one.
    width: of the network that its operator lets it train; 0 leaves that to the server.
    shown: images to evaluate on, of the first client, where its data hold features in their place
        and they are served.
    memory: what survives from round to round.
    own_model: architecture of the model that it keeps for itself, in methods that have one.
    task: what must be known to build a network for its images.
    teachers: its own foundation models, if it has any; nothing of them leaves the device.
    """

    def __init__(
        self,
        role: Literal["source", "target"],
        clients: list[ClientData],
        classes: tuple[str, ...],
        plan_digest: str,
        model: FlatModel | Callable[[], FlatModel],
        memory: Memory,
        own_model: str = "",
        teachers: Teachers | None = None,
        task: Task | None = None,
    ) -> None:
        self.role = role
        self.clients = clients
        self.classes = classes
        self.plan_digest = plan_digest
        self._model = model
        self._parts: dict[float, Where] = {}
        self.width = 0.0
        self.shown: Tensor | None = None
        self.memory = memory
        self.own_model = own_model
        self.teachers = teachers
        images = clients[0].support_images
        self.task = task or Task(own_model, len(classes), images.shape[1], images.shape[-1])

    @property
    def model(self) -> FlatModel:
        """The network in flat form; its parameters are scratch space between calls.

        It is built when it is first needed: a device may hold a part of it only.
        """
        if not isinstance(self._model, FlatModel):
            self._model = self._model()
        return self._model

    def at_width(self, width: float) -> FlatModel:
        """The network cut to a width; its parameters and buffers are scratch space as well."""
        return self.model if width == 1 else _narrow(self.task, width)

    def part(self, width: float) -> Where:
        """What a network of this width has of each parameter of the whole one."""
        if width not in self._parts:
            whole = hollow(self.task)
            named = [(name, tuple(p.shape), "") for name, p in whole.named_parameters()]
            self._parts[width] = part(groups_of(whole), named, width)
        return self._parts[width]

    @property
    def client(self) -> ClientData:
        """The data of the one client that a source plays.

        Raises
        ------
        DataError: the node plays targets, which never train.
        """
        if self.role != "source":
            numbers = [client.client for client in self.clients]
            raise DataError(f"this node plays the target clients {numbers}, which never train")
        return self.clients[0]

    @property
    def images(self) -> Batch:
        """All images of a source, support and query: what methods without adaptation train on."""
        data = self.client
        return (
            torch.cat([data.support_images, data.query_images]),
            torch.cat([data.support_labels, data.query_labels]),
        )

    @property
    def examples(self) -> int:
        """Number of ``images``."""
        return len(self.client.support_labels) + len(self.client.query_labels)

    def start(self, buffers: Tensors) -> None:
        """Make the network ready to train, with these BatchNorm statistics."""
        self.model.load_buffers(buffers)
        self.model.module.train()

    def gradient(self, vector: Tensor, batch: Batch) -> tuple[Tensor, float]:
        """Gradient of the mean cross-entropy at a flat parameter vector, and its value in nats.

        The gradient, shape (d,), is valid until the next call.
        """
        images, labels = batch
        self.model.load(vector)
        return self.model.gradient(lambda: F.cross_entropy(self.model.module(images), labels))


def open_device(context: Context, settings: RunSettings, token: str = "") -> Device:
    """The device of this node; kept for the next message where the process lives on.

    Parameters
    ----------
    token: of the run, where it is told; the device forgets what another run of its name has left.

    Raises
    ------
    SettingsError: the node's configuration does not fit the run.
    DataError: the data cannot be read.
    """
    node = read_node_config(context.node_config)
    if node.threads:
        torch.set_num_threads(node.threads)
    key = (context.run_id, context.node_id, settings, node)
    device = _DEVICES.get(key)
    memory = Memory(context, _state_folder(context, settings, node))
    if token:
        memory.belong(token)
    if device is None:
        device = _build(settings, node, memory)
        _DEVICES[key] = device
        while len(_DEVICES) > _KEPT:
            _DEVICES.popitem(last=False)
    device.memory = memory
    return device


def forget(context: Context) -> None:
    """Keep nothing of a node's device; its memory stays."""
    for key in [key for key in _DEVICES if key[:2] == (context.run_id, context.node_id)]:
        del _DEVICES[key]


_IMAGES = "images"  # the list of those that were there when the run began is kept under it
_KEPT = 1024
_DEVICES: OrderedDict[tuple[int, int, RunSettings, NodeSettings], Device] = OrderedDict()


def _build(settings: RunSettings, node: NodeSettings, memory: Memory) -> Device:
    data = settings.data
    role: Literal["source", "target"]
    if data.name == "folder":
        if node.folder is None:
            raise DataError(
                "this run trains on each device's own images: give --node-config "
                "'data-folder=\"/path\"', a folder with one subfolder for each class"
            )
        classes, digest, role = data.classes, "", node.role
        kept = memory.read(_IMAGES)
        only = kept[1]["hashes"] if kept else image_hashes(node.folder)
        own, split = load_folder_split(node.folder, classes, data, only)
        if kept is None:  # the server weighs a device by the images that it introduces itself with
            memory.write(_IMAGES, {}, {"hashes": only})
        clients = [client_data(own, split)]
        pictures = pictures_of_folder(node.folder, classes, data, only)
    else:
        images = load(data.name, node.folder, image_size=data.image_size, channels=data.channels)
        shared = plan(images.labels, data, images.owners)
        numbers = played_clients(node, data)
        clients = [client_data(images, shared.clients[n], n) for n in numbers]
        classes, digest = images.classes, shared.digest()
        role = "source" if numbers[0] < data.sources else "target"
        pictures = pictures_of_set(images, shared.clients[numbers[0]])
    shown = None
    own_model = node.own_model or _own_architecture(settings, clients[0].client)
    backbone = absolute(node.backbone or settings.pretrained_weights)
    task = Task(settings.model, len(classes), data.channels, data.image_size, backbone)
    if task.tuning == Tuning("head") and own_model == settings.model:
        shown = clients[0].evaluation[0] if node.serve else None
        clients, task = on_features(clients, task, node.features)
    model = partial(_model, task, settings.seed)
    device = Device(role, clients, classes, digest, model, memory, own_model, task=task)
    device.width, device.shown = node.width, shown
    device.clients = [client.to(torch.get_default_device()) for client in device.clients]
    if node.teachers and role == "source":
        device.teachers = _teachers(Path(node.teachers), data.name, device, pictures)
    return device


def _own_architecture(settings: RunSettings, client: int) -> str:
    """Architecture of a client's own model: those of the run in turn."""
    names = [name.strip() for name in settings.own_models.split(",") if name.strip()]
    return names[client % len(names)] if names and client >= 0 else settings.model


def _teachers(path: Path, dataset: str, device: Device, pictures: Pictures) -> Teachers:
    from client_app.teachers.answers import Teachers

    return Teachers(path.expanduser(), dataset, device.classes, device.images[1].cpu(), pictures)


@lru_cache(maxsize=1)
def _model(task: Task, seed: int) -> FlatModel:
    # Devices in one process share the scratch space: every use loads a vector first.
    return FlatModel(task.build(seed=seed))


_NARROW: OrderedDict[tuple[Task, float], FlatModel] = OrderedDict()
_WIDTHS = 8


def _narrow(task: Task, width: float) -> FlatModel:
    """Cut before it takes memory; what it holds at first means nothing."""
    if (task, width) not in _NARROW:
        network = hollow(task, width).to_empty(device=torch.get_default_device())
        _NARROW[task, width] = FlatModel(network)
        while len(_NARROW) > _WIDTHS:
            _NARROW.popitem(last=False)
    return _NARROW[task, width]


def _state_folder(context: Context, settings: RunSettings, node: NodeSettings) -> Path | None:
    if not node.state_folder:
        return None
    run = Path(node.state_folder).expanduser() / (settings.run_name or f"run-{context.run_id}")
    if settings.data.name == "folder":
        return run
    # Nodes that play clients of a partitioned set often share a machine, and then a folder.
    return run / f"client-{played_clients(node, settings.data)[0]}"
