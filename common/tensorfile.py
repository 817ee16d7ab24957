"""Tensors on disk as safetensors: no pickle, readable by other tools, order and notes kept.

Each file carries a SHA-256 of itself, so that a single flipped bit is found; safetensors' own
reader looks at lengths alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from common.errors import ModelError
from common.tensors import Tensors

_UNKNOWN = "0" * 64
"""Stands where the checksum does while it is computed."""


def dump(groups: Mapping[str, Tensors], notes: Mapping[str, Any]) -> bytes:
    """Serialise groups of named tensors with JSON-able notes; the same content, the same bytes."""
    # ascontiguousarray would turn BatchNorm's scalar counters into arrays of one.
    arrays = {
        f"{group}/{name}": np.asarray(array, order="C")
        for group, tensors in groups.items()
        for name, array in tensors.unpack().items()
    }
    order = {group: [spec[0] for spec in tensors.specs] for group, tensors in groups.items()}
    about = {"order": json.dumps(order), "notes": json.dumps(notes), "sha256": _UNKNOWN}
    content = save(arrays, about)
    # The library writes the entries of its metadata in random order.
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight
    head = len(text).to_bytes(8, "little") + text
    return _with_checksum(head, _UNKNOWN, _checksum(head, content[end:])) + content[end:]


def parse(content: bytes, where: str) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """Read what ``dump`` wrote.

    Parameters
    ----------
    where: name of the file, for the error.

    Raises
    ------
    ModelError: the content is torn or altered, or was not written by ``dump``.
    """
    try:
        # safetensors' reader hands out the tensors only; the notes are in the header.
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end])
        told = header["__metadata__"]["sha256"]
        if _checksum(_with_checksum(content[:end], told, _UNKNOWN), content[end:]) != told:
            raise ValueError("its checksum does not fit its content")
        order = json.loads(header["__metadata__"]["order"])
        notes = json.loads(header["__metadata__"]["notes"])
        arrays = load(content)
        groups = {g: Tensors.pack({n: arrays[f"{g}/{n}"] for n in o}) for g, o in order.items()}
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{where} is damaged or is not a file of AugFlower ({type(error).__name__}: {error})"
        ) from error
    return groups, notes


def _checksum(head: bytes, rest: bytes) -> str:
    digest = hashlib.sha256(head)
    digest.update(rest)
    return digest.hexdigest()


def _with_checksum(head: bytes, old: str, new: str) -> bytes:
    return head.replace(f'"sha256":"{old}"'.encode(), f'"sha256":"{new}"'.encode(), 1)
