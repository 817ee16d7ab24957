"""Which images a private model has seen: kept in its card, compared with a run's clients.

A private model that has seen the targets' query images, or D_s, would be measured on what it knows
by heart. The data set, the seed and the number of images decide which images it has seen; a run
with other settings gives those to its clients.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from common.config import DataSettings
from common.data.catalogue import KNOWN
from common.data.images import Indices
from common.data.plan import Plan
from common.errors import SettingsError

_DECIDES = ("seed", "pretrain-images")


@dataclass(frozen=True, eq=False)
class Seen:
    """Images that one training has used, validation included.

    Attributes
    ----------
    source: name of the data set, or where a model that was trained further comes from.
    pool: digest of the data set's labels, so that an index means the same image.
    images: indices into that pool, ascending, int64, shape (n,); None where nobody knows them.
    settings: public name -> value of what decided which images these are.
    """

    source: str
    pool: str = ""
    images: Indices | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, data: DataSettings, labels: Indices, images: Indices) -> Seen:
        """Images ``images`` of the pool with these labels."""
        settings = {
            "data.seed": data.seed,
            "data.partition": data.partition,
            "data.pretrain-images": data.pretrain_images,
            **shape(data),
        }
        return cls(data.name, _digest(labels), np.sort(images), settings)

    def as_dict(self) -> dict[str, Any]:
        """As JSON-able values; images as one bit for each of the pool's, in base64."""
        bits = None
        if self.images is not None:
            marks = np.zeros(int(self.images.max(initial=-1)) + 1, bool)
            marks[self.images] = True
            bits = base64.b64encode(np.packbits(marks).tobytes()).decode()
        return {
            "source": self.source, "pool": self.pool, "images": bits, "settings": self.settings,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Seen:
        """Back from ``as_dict``.

        Raises
        ------
        KeyError, TypeError, ValueError: it is not what ``as_dict`` gives.
        """
        images = None
        if values["images"] is not None:
            try:
                content = base64.b64decode(values["images"], validate=True)
            except binascii.Error as error:
                raise ValueError(f"images, which are not base64 ({error}),") from error
            images = np.flatnonzero(np.unpackbits(np.frombuffer(content, np.uint8)))
        settings = dict(values["settings"])
        return cls(str(values["source"]), str(values["pool"]), images, settings)


def shape(data: DataSettings) -> dict[str, Any]:
    """Public name -> value of what decides what an image is."""
    return {"data.image-size": data.image_size, "data.channels": data.channels}


def check_fits(
    seen: Sequence[Seen], known: Sequence[str], data: DataSettings, classes: Sequence[str]
) -> None:
    """Refuse a private model whose card says that it was last trained for something else.

    Parameters
    ----------
    known: classes of the private model; empty where nobody knows them.
    classes: of the run.

    Raises
    ------
    SettingsError: its data set, the size or channels of its images, or its classes differ.
    """
    if not seen:  # published weights are for other images, and are shown the run's as they need
        return
    last = seen[-1]
    differing = {
        name: (last.settings[name], value)
        for name, value in shape(data).items()
        if last.settings.get(name, value) != value
    }
    named = {data.name, last.source} <= KNOWN.keys() - {"folder"}
    if named and last.source != data.name:
        differing = {"data.name": (last.source, data.name), **differing}
    if not differing and (not known or set(known) == set(classes)):
        return
    theirs = {name: pair[0] for name, pair in differing.items()}
    mine = {name: pair[1] for name, pair in differing.items()}
    what = ", ".join(f"{name}={value}" for name, value in theirs.items())
    this = ", ".join(f"{name}={value}" for name, value in mine.items())
    if not differing:
        what, this = f"the classes {_some(known)}", f"the classes {_some(classes)}"
    again = _words(shape(data) | {"data.name": data.name})
    raise SettingsError(
        f"AUGFLOWER_PRIVATE_MODEL was trained for another task than this run's: for {what}, and "
        f"the run has {this}. Name one that was trained for it (augflower pretrain FOLDER "
        f"{again}), or run with the settings of its training"
    )


def check_unseen(
    seen: Sequence[Seen],
    data: DataSettings,
    labels: Indices,
    plan: Plan,
    own_set: bool,
    what: str = "private model",
) -> bool:
    """Whether it is known that a private model has seen no image that the run measures it on.

    Parameters
    ----------
    labels: of the run's data set, shape (n,).
    own_set: whether D_s is the plan's.
    what: of the server has seen them.

    Raises
    ------
    SettingsError: it has seen images of the run's clients, or of D_s.
    """
    parts = {
        "of sources": _images(plan, plan.sources),
        "of targets": _images(plan, plan.targets),
        "of the server's set D_s": plan.server if own_set else plan.server[:0],
    }
    pool = _digest(labels)
    for training in seen:
        if training.images is None or (training.source, training.pool) != (data.name, pool):
            continue
        shared = {name: len(np.intersect1d(part, training.images)) for name, part in parts.items()}
        if not any(shared.values()):
            continue
        found = ", ".join(f"{count} {name}" for name, count in shared.items() if count)
        mine = {f"data.{name}": getattr(data, name.replace("-", "_")) for name in _DECIDES}
        raise SettingsError(
            f"the {what} was trained on {sum(shared.values())} images that this run "
            f"gives to others ({found}): its results would not count. Run with the settings of its "
            f"training, {_words({name: training.settings.get(name, '?') for name in mine})}, or "
            f"train one for this run: augflower pretrain FOLDER {_words(mine)}"
        )
    return bool(seen) and all(
        training.images is not None and (training.source != data.name or training.pool == pool)
        for training in seen
    )


def _images(plan: Plan, clients: range) -> Indices:
    held = [plan.clients[number] for number in clients]
    parts = [part for client in held for part in (client.support, client.query)]
    return np.concatenate(parts) if parts else plan.server[:0]


def _some(classes: Sequence[str], most: int = 6) -> str:
    return ", ".join(classes[:most]) + (" ..." if len(classes) > most else "")


def _words(settings: dict[str, Any]) -> str:
    return " ".join(f"-s {name}={value}" for name, value in settings.items())


def _digest(labels: Indices) -> str:
    return hashlib.sha256(np.ascontiguousarray(labels, "<i8").tobytes()).hexdigest()
