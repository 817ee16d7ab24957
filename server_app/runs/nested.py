"""Nested state as plain JSON and named arrays, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_MARK = "array:"


def flatten(value: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Take the NumPy arrays out of nested dictionaries; marks stand in their places."""
    arrays: dict[str, np.ndarray] = {}

    def walk(item: Any, path: str) -> Any:
        if isinstance(item, np.ndarray):
            arrays[path] = item
            return _MARK + path
        if isinstance(item, Mapping):
            return {key: walk(inner, f"{path}.{key}") for key, inner in item.items()}
        return item

    return {key: walk(item, key) for key, item in value.items()}, arrays


def unflatten(plain: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Put the arrays back."""

    def walk(item: Any) -> Any:
        if isinstance(item, str) and item.startswith(_MARK):
            return arrays[item.removeprefix(_MARK)]
        if isinstance(item, Mapping):
            return {key: walk(inner) for key, inner in item.items()}
        return item

    return {key: walk(item) for key, item in plain.items()}
