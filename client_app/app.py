"""The device's shell: Flower message -> Down -> method -> Up -> message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

import client_app.methods
import common.methods
from client_app.adapt import evaluate, evaluate_personal
from client_app.device import Device, open_device
from client_app.kept import note
from client_app.measure import measured
from client_app.relay import relay
from client_app.serving import keep
from client_app.settings import read_node_config
from common import enrolment, evaluation, leaf, registry
from common.accelerator import accelerator, computing
from common.config import RunSettings, other_sections, read_run_config
from common.errors import WireError
from common.release import release
from common.seeds import for_client
from common.task import backbone_digest, hollow
from common.wire import pack, unpack

app = ClientApp()

Handler = Callable[[Any, Device], object]


def _answer(
    message: Message, context: Context, contract: Any, handler: Handler, half: Any = None
) -> Message:
    settings = read_run_config(context.run_config, other_sections(context.run_config))
    node = read_node_config(context.node_config)
    down = unpack(contract.Down, message.content)
    size = getattr(getattr(down, "sgd", down), "batch_size", 0)
    batch = f"{settings.model} and batches of {size or 'all'} images"
    with computing(accelerator(node.device), batch, node.device_memory):
        device = open_device(context, settings, getattr(down, "token", ""))
        number = device.clients[0].client  # below zero: its own images, known by the node
        down = for_client(down, number if number >= 0 else context.node_id)
        if node.serving:
            keep(node.serving, device, down, settings, half)
        return Message(pack(handler(down, device)), reply_to=message)


def _enrol(down: enrolment.Down, device: Device) -> enrolment.Up:
    # Where widths are asked for, the whole network may be more than the device can hold.
    whole = hollow(device.task).parameters() if down.narrowest else [device.model.vector]
    size = sum(part.numel() for part in whole)
    if size != down.parameters:
        raise WireError(
            f"the server's model has {down.parameters} parameters, this node's {size}: "
            "their class names or releases differ"
        )
    if down.backbone != backbone_digest(device.task):
        raise WireError(
            f"this node's {device.task.backbone or 'backbone'} is not what the server has: "
            "copy the file that pretrained-weights names there, and name it as backbone in the "
            "node's config if it is in another place"
        )
    free, seconds = measured(device, down.narrowest, down.batch)
    return enrolment.Up(
        role=device.role,
        clients=[data.client for data in device.clients],
        support=sum(len(data.support_labels) for data in device.clients),
        query=sum(len(data.query_labels) for data in device.clients),
        test=sum(len(data.test_labels) for data in device.clients),
        architecture=device.own_model,
        classes=list(device.classes),
        parameters=size,
        plan=device.plan_digest,
        release=release(),
        width=device.width,
        free_memory=free,
        step_seconds=seconds,
    )


def _register(method: str) -> None:
    @app.train(method)
    def _(message: Message, context: Context) -> Message:
        contract = registry.load(common.methods, method)
        half = registry.load(client_app.methods, method)
        return _answer(message, context, contract, half.train, half)

    @app.evaluate(method)
    def _(message: Message, context: Context) -> Message:
        contract = registry.load(common.methods, method)
        half = registry.load(client_app.methods, method)
        settings = read_run_config(context.run_config, other_sections(context.run_config))

        def handler(down: Any, device: Device) -> object:
            return evaluate_personal(half.personal, down, device, settings.evaluation.steps)

        return _answer(message, context, contract, handler, half)


for _method in registry.names(client_app.methods):
    _register(_method)


@app.evaluate()
def _evaluate(message: Message, context: Context) -> Message:
    return _answer(message, context, evaluation, evaluate)


@app.query("enrol")
def _query(message: Message, context: Context) -> Message:
    def introduce(down: enrolment.Down, device: Device) -> enrolment.Up:
        _prepare(read_run_config(context.run_config, other_sections(context.run_config)), device)
        return _enrol(down, device)

    return _answer(message, context, enrolment, introduce)


@app.query(leaf.KIND)
def _relay(message: Message, context: Context) -> Message:
    socket = read_node_config(context.node_config).leaf_socket
    return Message(relay(message.content, socket), reply_to=message)


def _prepare(settings: RunSettings, device: Device) -> None:
    """Let the run's method refuse a device before it trains; note how its own model is used."""
    if device.role == "source" and settings.method in registry.names(client_app.methods):
        half = registry.load(client_app.methods, settings.method)
        if hasattr(half, "prepare"):
            half.prepare(device)
        if hasattr(half, "personal"):
            note(device, settings)
