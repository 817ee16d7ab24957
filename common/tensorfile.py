"""Tensors on disk as safetensors: no pickle, readable by other tools, order and notes kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from common.errors import ModelError
from common.tensors import Tensors


def dump(groups: Mapping[str, Tensors], notes: Mapping[str, Any]) -> bytes:
    """Serialise groups of named tensors with JSON-able notes; the same content, the same bytes."""
    # ascontiguousarray would turn BatchNorm's scalar counters into arrays of one.
    arrays = {
        f"{group}/{name}": np.asarray(array, order="C")
        for group, tensors in groups.items()
        for name, array in tensors.unpack().items()
    }
    order = {group: [spec[0] for spec in tensors.specs] for group, tensors in groups.items()}
    content = save(arrays, {"order": json.dumps(order), "notes": json.dumps(notes)})
    # The library writes the entries of its metadata in random order.
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight
    return len(text).to_bytes(8, "little") + text + content[end:]


def parse(content: bytes, where: str) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """Read what ``dump`` wrote.

    Parameters
    ----------
    where: name of the file, for the error.

    Raises
    ------
    ModelError: the content is torn or was not written by ``dump``.
    """
    try:
        # safetensors' reader hands out the tensors only; the notes are in the header.
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        order = json.loads(header["__metadata__"]["order"])
        notes = json.loads(header["__metadata__"]["notes"])
        arrays = load(content)
        groups = {g: Tensors.pack({n: arrays[f"{g}/{n}"] for n in o}) for g, o in order.items()}
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{where} is damaged or is not a file of AugFlower ({type(error).__name__}: {error})"
        ) from error
    return groups, notes
