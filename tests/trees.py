"""Trees of leaves in one process: the real wire at both levels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client_app.app import app as device_app
from deploy.run_config import default_config
from server_app.leaf import Leaf
from server_app.settings import ServerSettings
from server_app.transport.in_process import FIRST_NODE, InProcessGrid, Interference

LEAF = FIRST_NODE - 50


def below(
    nodes: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    first: int,
    interfere: Interference | None = None,
    names: Sequence[str] = (),
) -> tuple[ClientApp, InProcessGrid]:
    """A leaf with devices of its own, as the app that a node of the server runs."""
    grid = InProcessGrid(device_app, nodes, config, interfere=interfere, first=first, names=names)
    leaf = Leaf(grid, config, b"s" * 32, lambda text: None)
    app = ClientApp()

    @app.query("leaf")
    def _(message: Message, context: Context) -> Message:
        return Message(leaf.answer(message.content)[0], reply_to=message)

    return app, grid


def tree(
    groups: Sequence[Sequence[Mapping[str, Any]]],
    overrides: Mapping[str, Any],
    direct: Sequence[Mapping[str, Any]] = (),
    interfere: Interference | None = None,
    names: Sequence[Sequence[str]] = (),
) -> InProcessGrid:
    """A Grid of one leaf for each group of devices, and of devices that have none.

    Device k, in the order of the groups, has the node id ``FIRST_NODE + k``, as in a flat fleet.
    """
    config = default_config() | dict(overrides)
    apps: dict[int, ClientApp] = {}
    grids: list[InProcessGrid] = []
    first = FIRST_NODE
    for number, nodes in enumerate(groups):
        own = names[number] if names else ()
        apps[LEAF + number], grid = below(nodes, config, first, interfere, own)
        grids.append(grid)
        first += len(nodes)

    def dispatch(message: Message, context: Context) -> Message:
        return apps.get(context.node_id, device_app)(message, context)

    leaves = [f"leaf-{number}" for number in range(len(groups))]
    everything = [{} for _ in groups] + [*direct]
    above = InProcessGrid(
        dispatch,  # type: ignore[arg-type]
        everything, config, interfere=interfere, first=LEAF, names=leaves,
    )  # fmt: skip
    above.below = grids  # type: ignore[attr-defined]
    return above


def server_of(server: ServerSettings, leaves: int, folder: Path) -> ServerSettings:
    """The server's settings, with the names of its leaves."""
    path = folder / f"nodes-{leaves}.json"
    bound = {f"leaf-{number}": {"role": "leaf"} for number in range(leaves)}
    path.write_text(json.dumps({"bound": bound}))
    return replace(server, nodes=path)
