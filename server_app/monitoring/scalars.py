"""The figures of a round by name, as trackers draw them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any


def scalars(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Tag and value of every figure of a line of the record that is finite."""
    evaluated = line.get("evaluation") or {}
    found = {f"accuracy/{when}": evaluated.get(f"accuracy_{when}") for when in ("before", "after")}
    found |= {f"loss/{when}": evaluated.get(f"loss_{when}") for when in ("before", "after")}
    found |= {f"train/{name}": value for name, value in line.get("train", {}).items()}
    found |= {f"method/{name}": value for name, value in line.get("method", {}).items()}
    found |= {f"seconds/{name}": value for name, value in line.get("seconds", {}).items()}
    found |= {f"bytes/{way}": line.get(f"bytes_{way}") for way in ("down", "up")}
    if line.get("asked"):
        found |= {
            "replies/admitted": line["replies"],
            "replies/missing": line["missing"],
            "replies/rejected": line["rejected"],
        }
    for tag, value in found.items():
        if value is not None and math.isfinite(value):
            yield tag, value


def unix(line: Mapping[str, Any]) -> float | None:
    """Unix seconds at which a round was closed; None where the line has no time."""
    return datetime.fromisoformat(line["time"]).timestamp() if line.get("time") else None
