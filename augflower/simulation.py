"""Simulate a run from a program: what the command line does, with modules and arrays in memory."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from augflower.clients import partitions, pool
from augflower.run import Run
from common.data import own
from common.data.catalogue import KNOWN
from common.data.own import DataSet
from common.errors import DataError
from common.models import register
from deploy.simulate import DEVICES, cores
from deploy.simulate import simulate as run_simulation
from server_app.monitoring.callbacks import Callback
from server_app.monitoring.watch import Watch
from server_app.settings import read_server_settings


def simulate(
    *,
    method: str = "augfl",
    model: str | nn.Module = "cnn-tiny",
    clients: Any = "digits",
    targets: int | None = None,
    server: Any = None,
    classes: Sequence[str] | None = None,
    rounds: int | None = None,
    seed: int | None = None,
    name: str = "",
    runs: Path | str | None = None,
    private_model: Path | str | None = None,
    settings: Mapping[str, Any] | None = None,
    callbacks: Sequence[str | Callback] | None = None,
    processes: int | None = None,
    device: str = "cpu",
    show: Callable[[str], None] | None = print,
) -> Run:
    """Run a method on this machine, to its end.

    Parameters
    ----------
    method: one of ``augflower list methods``.
    model: a name, or a module that maps (n, c, size, size) to logits (n, classes); the run starts
        from its weights, and it stays as it is.
    clients: the name of a data set; a data set, to be assigned as ``settings`` say; the path of a
        folder with one subfolder a client, and in it one a class; or a list with the images of
        each client (``augflower.clients.partitions`` says in which forms). An image that is the
        only one of its class at a client of a list is left out: it cannot be both adapted on and
        asked.
    targets: how many clients, the last ones, never train but are what the model is evaluated on. Of
        a list every fourth by default, at least one; else the setting ``data.targets``.
    server: images of the server's own, D_s, beside a list of clients; in the same forms.
    classes: names of the classes, for data in memory.
    rounds, seed: of training; of everything that is random in it.
    name: of the run's folder; the time without it.
    runs: folder that holds the runs' folders; ``AUGFLOWER_RUNS``, or ``runs``, without it.
    private_model: as ``AUGFLOWER_PRIVATE_MODEL``, which it replaces.
    settings: any other public setting by its dotted name, such as {"augfl.lambda": 0.0}.
    callbacks: who else is told of the run: "tensorboard", "mlflow", "wandb", names of installed
        packages, or objects of your own (``augflower.Callback``); without it, those that
        ``AUGFLOWER_CALLBACKS`` names.
    processes: forks of this one that share the clients, modules and images as they are in memory;
        one for each core without it. The result does not depend on their number.
    device: that clients compute on: "cpu", "cuda", "cuda:N", or "auto" for the best there is.
    show: gets the run's lines; None keeps quiet.

    Raises
    ------
    AugFlowerError: settings, data and models do not fit; the message says which and what to do.
    """
    config: dict[str, Any] = {"method": method}
    config |= {"rounds": rounds} if rounds is not None else {}
    config |= {"seed": seed} if seed is not None else {}
    config |= _data(clients, targets, server, classes)
    config["model"] = model if isinstance(model, str) else _registered(model)
    config |= dict(settings or {})
    config["run-name"] = name or time.strftime("%Y%m%d-%H%M%S")
    place = replace(read_server_settings(), watch=None)  # no page that ends with the call
    if runs is not None:
        place = replace(place, runs=Path(runs).expanduser())
    if private_model is not None:
        place = replace(place, private_model=str(private_model))
    memory = place.runs / config["run-name"] / DEVICES
    say = show or (lambda _: None)
    with Watch(place, say, callbacks) as watch:
        folder = clients if isinstance(clients, Path) else None
        count = cores() if processes is None else processes
        return Run(
            run_simulation(
                config,
                place,
                say,
                clients=folder,
                memory=memory,
                status=watch.status,
                processes=count,
                device=device,
            )
        )


def _data(
    clients: Any, targets: int | None, server: Any, classes: Sequence[str] | None
) -> dict[str, Any]:
    chosen: dict[str, Any] = {} if targets is None else {"data.targets": targets}
    if isinstance(clients, Path):
        return chosen | ({"data.class-names": ",".join(classes)} if classes else {})
    if isinstance(clients, str):
        return chosen | _shape(clients)
    if isinstance(clients, list):
        if len(clients) < 2:
            raise DataError(f"a run needs at least two clients, not {len(clients)}")
        data = partitions(clients, server, classes)
        count = max(1, len(clients) // 4) if targets is None else targets
        if not 0 <= count < len(clients):
            raise DataError(f"targets={count}: of {len(clients)} clients at least one must train")
        chosen = {
            "data.partition": "natural",
            "data.sources": len(clients) - count,
            "data.targets": count,
            "data.server-images": int((data.owners == own.SERVER).sum()),  # type: ignore[union-attr]
            "data.pretrain-images": 0,
        }
    elif isinstance(clients, DataSet):
        data = clients
    else:
        data = pool(clients, classes)
    named = f"own-{data.digest()}"
    own.register(named, data)
    return chosen | _shape(named)


def _shape(name: str) -> dict[str, Any]:
    """The data set and its own size and colours, where it has them."""
    found = own.find(name)
    if found is not None:
        channels, size = found.images.shape[1], found.size
    elif name in KNOWN and (facts := KNOWN[name]).image_size:
        channels, size = len(facts.mean), facts.image_size
    else:
        return {"data.name": name}
    return {"data.name": name, "data.image-size": size, "data.channels": channels}


def _registered(module: nn.Module) -> str:
    """The name of a module: of its class, and of what is in it, so that another has another."""
    sha = hashlib.sha256(repr(module).encode())
    for key, tensor in module.state_dict().items():
        sha.update(key.encode() + tensor.detach().cpu().numpy().tobytes())
    name = f"{type(module).__name__}-{sha.hexdigest()[:8]}"
    kept = copy.deepcopy(module).cpu()
    register(name, lambda classes, channels, image_size: copy.deepcopy(kept))
    return name
