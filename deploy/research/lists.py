"""What there is to choose from: methods, models, data sets, partitions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import EntryPoint
from typing import Annotated, Any, Literal, get_args

import typer

_HALF = ", the server's half"

Entry = tuple[str, str]
"""A name, and a few words about it."""


def methods() -> list[Entry]:
    """Every method, with the first sentence about its server half."""
    import server_app.methods
    from common import registry

    return [
        (name, _first_line(registry.load(server_app.methods, name)).replace(_HALF, ""))
        for name in registry.names(server_app.methods)
    ]


def _first_line(documented: Any) -> str:
    """The first sentence of a docstring, in one line."""
    paragraph = (inspect.getdoc(documented) or "").partition("\n\n")[0]
    return " ".join(paragraph.split())


def models() -> list[Entry]:
    """Every model that is known by name alone, with its parameters for 10 classes of 32 pixels."""
    from common import extensions
    from common.models import MODELS, build

    entries = []
    for name in MODELS:
        module = build(name, classes=10, channels=3, image_size=32)
        count = sum(parameter.numel() for parameter in module.parameters())
        entries.append((name, f"{count:,} parameters for 10 classes of 3 x 32 x 32 pixels"))
    return [
        *entries,
        *((name, _of_package(point)) for name, point in extensions.added("models").items()),
        ("torchvision:NAME", "any classifier of torchvision"),
        ("timm:NAME", "any of timm, if it is installed; timm:NAME/4 has patches of 4 pixels"),
        ("open_clip:NAME", "image tower of open_clip, if it is installed, with a linear layer"),
        ("NAME@0.5", "any of these cut to half its width, if it has units to leave out"),
    ]


def _of_package(point: EntryPoint) -> str:
    return f"of the package {point.dist.name}" if point.dist else "of an installed package"


def data() -> list[Entry]:
    """Every data set, with the size of its images and its number of classes, where it is known."""
    from common.data import own
    from common.data.catalogue import KNOWN, known

    entries = []
    for name in [*KNOWN, *own.names()]:
        facts = known(name)
        size = f"{facts.image_size} pixels" if facts.image_size else "images of any size"
        classes = f", {len(facts.classes)} classes" if facts.classes else ""
        colour = "grey" if len(facts.mean) == 1 else "colour"
        entries.append((name, f"{facts.title}: {size}, {colour}{classes}"))
    return entries


def partitions() -> list[Entry]:
    """Every way to divide a data set among clients."""
    from common.config import PARTITIONS, Partition

    return [(name, PARTITIONS[name]) for name in get_args(Partition)]


LISTS: dict[str, Callable[[], list[Entry]]] = {
    "methods": methods,
    "models": models,
    "data": data,
    "partitions": partitions,
}


def show(
    what: Annotated[Literal["methods", "models", "data", "partitions"], typer.Argument()],
) -> None:
    """List the methods, models, data sets or partitions."""
    entries = LISTS[what]()
    width = max(len(name) for name, _ in entries)
    for name, words in entries:
        print(f"{name.ljust(width)}  {words}")
