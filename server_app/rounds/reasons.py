"""What a round's line of the record says of lost replies, in lines for a console."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

_SHOWN = 4  # nodes that are named in one line


def told(line: Mapping[str, Any], name: Callable[[int], str]) -> Iterator[str]:
    """One line for each reason for which replies are missing or were rejected.

    Parameters
    ----------
    line: of the record, about one round.
    name: node id -> what people call it.
    """
    reasons: dict[tuple[str, str], list[str]] = {}
    for key, what in (("missing", "no reply"), ("evaluation_missing", "no evaluation")):
        for entry in line.get(key, []):
            reasons.setdefault((what, entry["reason"]), []).append(name(int(entry["node"])))
    for entry in line.get("rejected", []):
        if entry["step"] == "introduction":  # these are told of as they come
            continue
        what = f"rejected the {'reply' if entry['step'] == 'training' else 'evaluation'}"
        said = f"{entry['field']}: {entry['reason']}"
        reasons.setdefault((what, said), []).append(name(int(entry["node"])))
    for (what, reason), nodes in reasons.items():
        more = f" and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else ""
        whose = "of" if what.startswith("rejected") else "from"
        yield f"round {line['round']}: {what} {whose} {', '.join(nodes[:_SHOWN])}{more}: {reason}"
