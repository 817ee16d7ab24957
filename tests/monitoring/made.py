"""A status with a run of three rounds: two nodes train, one evaluates, one reply is rejected."""

from __future__ import annotations

from typing import Any

from server_app.monitoring.status import Status

META: dict[str, Any] = {
    "run": "trial",
    "method": "augfl",
    "status": "running",
    "started": "2026-11-21T04:12:09+00:00",
    "ended": None,
    "settings": {"rounds": 3, "data.name": "digits", "evaluation.steps": 1},
    "seeds": {"run": 0},
    "versions": {"augflower": "0.1.0"},
    "machine": "x86_64",
    "model": {"name": "cnn-tiny", "parameters": 10, "classes": ["a", "b"]},
    "private_model": False,
    "clients": {"sources": 2, "targets": 4},
    "resumed_from": None,
    "token": "the-runs-own-secret",
}
REASON = "3 of 10 values are not finite <script>alert(1)</script>"


def line(round: int) -> dict[str, Any]:
    """What the record has about a round; in round 2 a reply is rejected."""
    lost = [{"node": "12", "field": "increment", "reason": REASON}] if round == 2 else []
    content: dict[str, Any] = {
        "round": round,
        "time": f"2026-11-21T04:12:{10 + round}+0000",
        "seconds": {"evaluate": 0.5, "checkpoint": 0.1},
        "bytes_down": 1000,
        "bytes_up": 500,
        "evaluation": {
            "accuracy_before": 0.1, "accuracy_after": 0.5 + 0.1 * round,
            "loss_before": 2.0, "loss_after": 1.0, "std_after": 0.1, "examples": 40,
        },
    }  # fmt: skip
    if round:
        content["seconds"]["train"] = 1.0
        content |= {
            "asked": 2,
            "replies": 2 - len(lost),
            "missing": [],
            "rejected": lost,
            "train": {"loss": 1 / round},
            "method": {"rho": 0.7, "primal_residual": 1.0 / round, "broken": None},
            "clients": [
                {"node": "11", "client": "0", "seconds": 0.8, "loss": 1 / round, "examples": 8}
            ],
        }
    return content


def begun() -> Status:
    """A run whose nodes have come and which has not been evaluated yet."""
    status = Status()
    status.begin(META, 3)
    for node, clients in ((11, "0"), (12, "1")):
        status.node(node, "online", role="source", clients=clients, seen=True)
    status.node(13, "online", role="target", clients="2,3,4,5", seen=True)
    return status


def close(status: Status, *rounds: int) -> None:
    """Go through rounds."""
    for round in rounds:
        status.phase(round, "train")
        content = line(round)
        if content.get("rejected"):
            status.node(12, "rejected", reason=REASON, seen=True)
        status.close(content)
