"""Why a device cannot take part: what the doctor finds, asked by a process of its own.

The doctor starts threads, and the process that asks must have none: it forks.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection

from common.errors import AugFlowerError
from deploy.doctor.finding import Finding, error
from deploy.doctor.target import Device
from deploy.recovery import leave
from deploy.warm import detach_signals, end_process

TIMEOUT = 60.0
"""Seconds for all checks together."""

SETTINGS = "node settings"
"""The check of what a device is told; an app of somebody else may want something else."""


def diagnose(device: Device, node_config: str, *, known: bool) -> list[Finding]:
    """What is wrong with a device's way to its server; nothing if nothing was found.

    Parameters
    ----------
    node_config: what the device is told, as ``--node-config`` has it.
    known: also ask the server whether it knows the key, and for its time; that takes some twenty
        small requests.
    """
    context = multiprocessing.get_context("fork")
    reading, writing = context.Pipe(duplex=False)
    process = context.Process(
        target=_examine, args=(device, node_config, known, writing), daemon=True
    )
    process.start()
    writing.close()
    try:
        return reading.recv() if reading.poll(TIMEOUT) else []
    except EOFError:  # it has died; what it was asked for is only an explanation
        return []
    finally:
        end_process(process, 1.0)
        reading.close()


def _examine(device: Device, node_config: str, known: bool, answer: Connection) -> None:
    detach_signals()
    try:
        found = _checks(device, node_config, known)
        answer.send([finding for finding in found if finding.status == "error"])
    finally:
        leave(0)


def _checks(device: Device, node_config: str, known: bool) -> Iterator[Finding]:
    from flwr.common.config import parse_config_args

    from client_app.settings import read_node_config
    from deploy.doctor.examine import examine_connection

    try:
        read_node_config(parse_config_args([node_config] if node_config else None))
    except (AugFlowerError, OSError, ValueError) as problem:
        yield error(SETTINGS, str(problem), "correct --node-config")
    yield from examine_connection(device, known=known)
