"""A simulation's clients from a folder: one subfolder a client, and in it one subfolder a class.

Each becomes a device with its own images, as on a fleet: the same files are read, and cut into
support, query and test in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.data.image_files import list_classes, slug
from common.errors import DataError, SettingsError

LARGEST = 32
"""Images are brought to the size of the smallest, but to no more than this; pixels."""

_GREY = ("1", "L", "LA")


def folder_settings(folder: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run of these clients; what ``overrides`` says about them holds.

    Without it, a fourth of the clients, the last by name, never train and evaluate the model; the
    classes are all names of subfolders; images are as large as the smallest, at most ``LARGEST``.

    Raises
    ------
    DataError: no such folder, fewer than two clients in it, or one whose images cannot be used.
    SettingsError: ``overrides`` name another data set, or leave no client to train.
    """
    if overrides.get("data.name", "folder") != "folder":
        raise SettingsError(
            f"data.name={overrides['data.name']} and clients from {folder} exclude each other: "
            "leave one of them out"
        )
    clients = {client: list_classes(client) for client in client_folders(folder)}
    targets = overrides.get("data.targets", max(1, len(clients) // 4))
    if not isinstance(targets, int) or not 0 <= targets < len(clients):
        raise SettingsError(
            f"data.targets={targets}: of the {len(clients)} clients in {folder} at least one must "
            "train"
        )
    sources = len(clients) - targets
    if overrides.get("data.sources", sources) != sources:
        raise SettingsError(
            f"data.sources={overrides['data.sources']}, but {folder} has {sources} clients beside "
            f"data.targets={targets}: leave data.sources out"
        )
    images = list(_images(clients))
    found = {
        "data.class-names": ",".join(_names(clients)),
        "data.image-size": max(4, min(LARGEST, *(min(size) for size, _ in images))),
        "data.channels": 1 if all(mode in _GREY for _, mode in images) else 3,
    }
    fixed = {"data.name": "folder", "data.sources": sources, "data.targets": targets}
    return found | dict(overrides) | fixed


def client_folders(folder: Path) -> list[Path]:
    """The subfolders that are clients, sorted by name.

    Raises
    ------
    DataError: no such folder, or fewer than two clients in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; name one that has a subfolder for each client")
    clients = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(clients) < 2:
        raise DataError(
            f"{folder} has {len(clients)} subfolders; a run needs at least two clients, each a "
            "subfolder with one subfolder of images a class"
        )
    return clients


def folder_nodes(folder: Path, targets: int, memory: Path | None) -> list[dict[str, Any]]:
    """A node's configuration for each client; the last ``targets`` never train.

    Parameters
    ----------
    memory: folder in which each keeps its memory; without it, that ends with this process.
    """
    clients = client_folders(folder)
    nodes = []
    for number, client in enumerate(clients):
        role = "source" if number < len(clients) - targets else "target"
        node = {"data-folder": str(client.absolute()), "role": role}
        nodes.append(node | ({"state-folder": str(memory / client.name)} if memory else {}))
    return nodes


def _names(clients: Mapping[Path, Mapping[str, list[Path]]]) -> list[str]:
    """Names of all classes, one of each that differ in more than case and marks."""
    names = {slug(name): name for classes in clients.values() for name in sorted(classes)}
    return sorted(names.values())


def _images(
    clients: Mapping[Path, Mapping[str, list[Path]]],
) -> Iterator[tuple[tuple[int, int], str]]:
    """Size, pixels, and colour mode of every image, from its first bytes."""
    from PIL import Image

    for classes in clients.values():
        for name, paths in classes.items():
            if len(paths) < 2:
                raise DataError(
                    f"{paths[0].parent} holds one image of {name!r}; at least 2 are needed, one "
                    "to adapt on and one to measure: add some, or remove the subfolder"
                )
            for path in paths:
                try:
                    with Image.open(path) as image:
                        yield image.size, image.mode
                except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                    raise DataError(
                        f"{path} cannot be read as an image ({error}); replace or remove it"
                    ) from error
