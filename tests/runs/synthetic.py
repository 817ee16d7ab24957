"""Runs made up for tests: the record that a run of given size and fate would have written."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

VERSIONS = {"augflower": "0.1.0", "flwr": "1.39.0", "torch": "2.10.0", "python": "3.12.3"}
TERMS = ("cross_entropy", "kl", "crd")


def write_run(
    folder: Path,
    *,
    rounds: int = 40,
    every: int = 5,
    targets: int = 40,
    sources: int = 6,
    private: bool = True,
    method: str = "augfl",
    final: float = 0.978,
    pace: float = 8.0,
    seed: int = 0,
    status: str = "finished",
    diverges: int | None = None,
    loses: float = 0.0,
    settings: dict[str, Any] | None = None,
) -> Path:
    """Write ``run.json`` and ``metrics.jsonl`` of a run whose accuracy rises towards ``final``.

    ``diverges`` is the round from which losses are null; ``loses`` the share of replies that go
    missing, a third of them rejected instead.
    """
    folder.mkdir(parents=True)
    write_meta(folder, method, private, status, rounds, sources, targets, settings or {})
    draw = np.random.default_rng(seed)
    data = np.random.default_rng(1)
    easy, examples = data.normal(0, 1, targets), data.integers(16, 33, targets)
    lines = []
    last = rounds if status != "running" else rounds // 3
    for number in range(last + 1):
        gone = diverges is not None and number >= diverges
        line: dict[str, Any] = {"round": number, "time": f"2026-11-21T04:{number % 60:02d}:00+0000"}
        line |= train(number, draw, method, private, sources, gone, loses) if number else {}
        line.setdefault("seconds", {})["checkpoint"] = 0.02 + 0.004 * draw.random()
        line.setdefault("bytes_down", 0)
        line.setdefault("bytes_up", 0)
        if targets and (number % every == 0 or number == rounds):
            line["evaluation"] = evaluate(number, draw, easy, examples, final, pace, gone)
            line["seconds"]["evaluate"] = 0.6 + 0.1 * draw.random()
            line["bytes_down"] += 40_000 * targets
        lines.append(json.dumps(line))
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def write_meta(
    folder: Path,
    method: str,
    private: bool,
    status: str,
    rounds: int,
    sources: int,
    targets: int,
    settings: dict[str, Any],
) -> None:
    meta = {
        "run": folder.name,
        "method": method,
        "status": status,
        "started": "2026-11-21T04:12:09+00:00",
        "ended": None if status == "running" else "2026-11-21T04:15:21+00:00",
        "settings": {
            "method": method, "rounds": rounds, "model": "cnn-tiny", "seed": 0,
            "data.name": "digits", "data.partition": "random-pairs", "data.seed": 0,
            "data.sources": sources, "data.targets": targets, "evaluation.steps": 1,
            "evaluation.alpha": 0.05, "augfl.lambda": 5.0 if private else 0.0, **settings,
        },
        "seeds": {"run": 0, "data": 0},
        "versions": VERSIONS,
        "machine": "x86_64, 2 cores, Linux",
        "model": {"name": "cnn-tiny", "parameters": 10_314, "classes": list("0123456789")},
        "private_model": private,
        "clients": {"sources": sources, "targets": targets},
        "resumed_from": None,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(meta))


def train(
    number: int,
    draw: np.random.Generator,
    method: str,
    private: bool,
    sources: int,
    gone: bool,
    loses: float,
) -> dict[str, Any]:
    fall = math.exp(-number / 12)
    clients, missing, rejected = [], [], []
    for client in range(sources):
        node = str(4_000_000_001 + client)
        if draw.random() < loses:
            if draw.random() < 2 / 3:
                missing.append({"node": node, "reason": "no reply before the deadline"})
            else:
                rejected.append(
                    {"node": node, "field": "increment", "reason": "3 of 10314 values not finite"}
                )
            continue
        loss = None if gone else 0.08 + 2.1 * fall * draw.uniform(0.8, 1.2)
        seconds = 0.9 + 0.2 * client + 0.1 * draw.random()
        part = {"node": node, "client": str(client), "seconds": seconds, "loss": loss}
        clients.append({**part, "examples": 28})
    noisy = 1 + 0.08 * draw.normal()
    metrics: dict[str, Any] = {}
    if method == "augfl":
        metrics = {
            "rho": 0.7 if number < 12 else 1.4,
            "primal_residual": 3.1 * fall * abs(noisy) + 0.002,
            "dual_residual": 1.2 * fall * fall * abs(noisy) + 0.0004,
        }
    if private:
        scale = {"cross_entropy": 2.2, "kl": 0.9, "crd": 11.0}
        metrics |= {f"transfer_{t}": scale[t] * (0.06 + fall) * abs(noisy) for t in TERMS}
    losses: list[Any] = [part["loss"] for part in clients]
    loss = None if gone or not losses else float(np.mean(losses))
    return {
        "seconds": {
            "broadcast": 0.05, "train": 2.0 + 0.3 * draw.random(), "absorb": 0.08,
            "update": 0.4 + 0.02 * draw.random() if private else 0.01,
        },
        "bytes_down": 41_256 * sources,
        "bytes_up": 41_400 * (len(clients) + len(rejected)),
        "replies": len(clients), "asked": sources, "missing": missing, "rejected": rejected,
        "train": {"loss": loss}, "method": {k: None if gone else v for k, v in metrics.items()},
        "clients": clients,
    }  # fmt: skip


def evaluate(
    number: int,
    draw: np.random.Generator,
    easy: np.ndarray,
    examples: np.ndarray,
    final: float,
    pace: float,
    gone: bool,
) -> dict[str, Any]:
    share = 1 - math.exp(-number / pace)
    mean_after, mean_before = 0.45 + (final - 0.45) * share, 0.1 + (final - 0.24) * share
    clients = []
    for client, (ease, n) in enumerate(zip(easy, examples, strict=True)):
        spread = 0.10 * (1.1 - share)
        after = np.clip(mean_after + spread * ease + 0.02 * draw.normal(), 0, 1)
        before = np.clip(mean_before + 2.5 * spread * ease + 0.05 * draw.normal(), 0, 1)
        clients.append(
            {
                "node": str(77 + client % 4), "client": str(6 + client), "examples": int(n),
                "accuracy_before": None if gone else float(round(before * n) / n),
                "accuracy_after": None if gone else float(round(after * n) / n),
            }
        )  # fmt: skip

    def mean(key: str) -> float | None:
        values: list[Any] = [c[key] for c in clients]
        return None if gone else float(np.average(values, weights=examples))

    after = [c["accuracy_after"] for c in clients]
    return {
        "accuracy_before": mean("accuracy_before"), "accuracy_after": mean("accuracy_after"),
        "loss_before": None if gone else 2.3 - 1.6 * share,
        "loss_after": None if gone else 1.4 - 1.3 * share,
        "std_after": None if gone else float(np.std(after)),
        "examples": int(examples.sum()), "clients": clients,
    }  # fmt: skip
