"""Clients of a program's own: pairs of arrays, or data sets of PyTorch, Hugging Face or Flower."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from common.data.images import Pixels
from common.data.own import SERVER, DataSet
from common.errors import DataError

_IMAGES = ("image", "img")
_LABELS = ("label", "labels", "fine_label")


def partitions(
    clients: Sequence[Any], server: Any = None, classes: Sequence[str] | None = None
) -> DataSet:
    """Clients as they are, each with its own images, and images of the server.

    Parameters
    ----------
    clients: each a pair (images, labels), or a data set whose rows are such pairs or mappings with
        ``image`` or ``img`` and ``label``. Images are uint8, or floats in [0, 1], of shape (h, w),
        (c, h, w) or, with 3 channels, (h, w, c); all of one shape; Pillow's are taken as well.
    server: the server's own images D_s in the same form, if there are any.
    classes: names; the numbers of the labels without it.

    Raises
    ------
    DataError: a client without images, or images of several shapes.
    """
    parts = [*clients] if server is None else [*clients, server]
    read = [_read(part, number) for number, part in enumerate(parts)]
    if len({images.shape[1:] for images, _ in read}) > 1:
        shapes = sorted({images.shape[1:] for images, _ in read})
        raise DataError(f"the clients' images have several shapes, {shapes}: bring them to one")
    owners = [
        np.full(len(labels), number if number < len(clients) else SERVER, np.int64)
        for number, (_, labels) in enumerate(read)
    ]
    labels = np.concatenate([labels for _, labels in read])
    named = classes or [str(label) for label in range(int(labels.max(initial=0)) + 1)]
    images = np.concatenate([images for images, _ in read])
    return DataSet(tuple(named), images, labels, np.concatenate(owners))


def pool(data: Any, classes: Sequence[str] | None = None) -> DataSet:
    """One data set, in any form that ``partitions`` takes, to be assigned to clients.

    Raises
    ------
    DataError: it holds no images, or images of several shapes.
    """
    images, labels = _read(data, 0)
    named = classes or getattr(data, "classes", None)
    named = named or [str(label) for label in range(int(labels.max(initial=0)) + 1)]
    return DataSet(tuple(map(str, named)), images, labels)


def is_pair(value: Any) -> bool:
    """Whether ``value`` is (images, labels) and not a row of clients."""
    return isinstance(value, tuple) and len(value) == 2


def _read(part: Any, number: int) -> tuple[Pixels, np.ndarray]:
    images, labels = part if is_pair(part) else _columns(part)
    if not len(labels) or len(images) != len(labels):
        raise DataError(
            f"client {number} has {len(images)} images and {len(labels)} labels; it needs as many "
            "labels as images, and some of both"
        )
    rows = [_pixels(image) for image in images]
    if len({row.shape for row in rows}) > 1:
        raise DataError(f"the images of client {number} have several shapes: bring them to one")
    return np.stack(rows), np.asarray([int(label) for label in labels], np.int64)


def _columns(data: Any) -> tuple[list[Any], list[Any]]:
    try:
        rows = [_row(row) for row in _rows(data)]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{type(data).__name__} is no client: give (images, labels), or a data set whose rows "
            f"are such pairs or mappings with image and label ({error})"
        ) from error
    return [image for image, _ in rows], [label for _, label in rows]


def _rows(data: Any) -> Iterator[Any]:
    return (data[index] for index in range(len(data)))


def _row(row: Any) -> tuple[Any, Any]:
    if isinstance(row, Mapping):
        image, label = (
            next(row[name] for name in names if name in row) for names in (_IMAGES, _LABELS)
        )
        return image, label
    image, label = row
    return image, label


def _pixels(image: Any) -> Pixels:
    """One image, uint8, shape (c, h, w)."""
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu().numpy()
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[None]
    elif array.ndim == 3 and array.shape[0] not in (1, 3) and array.shape[2] in (1, 3):
        array = array.transpose(2, 0, 1)
    if array.dtype == np.uint8:
        return array
    if (
        array.dtype == bool
        or array.min() < 0
        or array.max() > (1 if array.dtype.kind == "f" else 255)
    ):
        raise DataError(
            f"an image of type {array.dtype} has values from {array.min():g} to {array.max():g}: "
            "give uint8, or floats in [0, 1] before any normalisation, which AugFlower does"
        )
    return np.round(array * (255 if array.dtype.kind == "f" else 1)).astype(np.uint8)
