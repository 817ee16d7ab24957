"""Golden runs: one short run of every method, whose model and record must not change unseen.

``python -m tests.test_golden`` writes them anew, which a commit that means to change them says.
Each run loses a reply, gets a failed and a spoiled one, and goes on.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Error, Message
from threadpoolctl import threadpool_limits

from common.tensorfile import parse
from server_app.transport.in_process import FIRST_NODE
from tests.conftest import backbone, own_server

FOLDER = Path(__file__).parent / "golden"
LABELS = {"knowledge.kl": 0.0, "knowledge.crd": 0.0, "knowledge.cross-entropy": 1.0}
SGD = {"lr": 0.05, "momentum": 0.5, "epochs": 2, "batch-size": 8}
AUGFL = {"alpha": 0.05, "rho": 0.7, "lambda": 2.0, "server-steps": 3, "batch-size": 0}
NORM = {"model": "resnet8x4", "rounds": 2}
OWN = {"own-models": "cnn-tiny,cnn-small", "evaluation.who": "both", "data.test-fraction": 0.3}
TESTED = {"evaluation.who": "both", "data.test-fraction": 0.3}


LOCAL = {f"sgd.{name}": value for name, value in SGD.items()}


def of(method: str, options: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"method": method, **{f"{method}.{k}": v for k, v in options.items()}, **more}


RUNS: dict[str, dict[str, Any]] = {
    "fedavg": of("fedavg", LOCAL),
    "fedavg-light": of("fedavg", LOCAL, model="cnn-tiny+ffa-2"),
    "lora": of("lora", {**LOCAL, "ranks": "4,2,1"}, model="cnn-tiny+lora-4"),
    "lora-coverage": of(
        "lora", {**LOCAL, "ranks": "4,2,1", "average": "coverage"}, model="cnn-tiny+lora-4"
    ),
    "fedavg-batchnorm": of("fedavg", LOCAL) | NORM,
    "fedprox": of("fedprox", {**LOCAL, "mu": 0.1}),
    "raffm": of("raffm", {**LOCAL, "assign": "1,0.5,0.25"}),
    "raffm-batchnorm": of("raffm", {**LOCAL, "assign": "1,0.5", "dropout": True}) | NORM,
    "fml": of("fml", LOCAL),
    "fedproto": of("fedproto", {**LOCAL, "width": 40}) | OWN,
    "fedtgp": of("fedtgp", {**LOCAL, "width": 40, "server-epochs": 5}) | OWN,
    "lg_fedavg": of("lg_fedavg", {**LOCAL, "width": 40}) | OWN,
    "fedgh": of("fedgh", {**LOCAL, "width": 40}) | OWN,
    "feddistill": of("feddistill", LOCAL) | OWN,
    "fedgen": of("fedgen", {**LOCAL, "width": 40, "hidden": 16, "server-steps": 5}) | OWN,
    "fedkd": of("fedkd", {**LOCAL, "energy-start": 0.8, "energy-end": 0.9}) | OWN,
    "fedkd-batchnorm": of("fedkd", LOCAL) | OWN | NORM,
    "fedktl": of("fedktl", {**LOCAL, "sgd.lr": 0.01, "width": 40, "server-epochs": 5}) | OWN,
    "fml-batchnorm": of("fml", LOCAL) | NORM,
    "fed_lpfm": of("fed_lpfm", {**LOCAL, "lambda": 0.0}),
    "local": of("local", LOCAL) | TESTED,
    "ditto": of("ditto", {**LOCAL, "own-epochs": 2}) | TESTED,
    "fedper": of("fedper", LOCAL) | TESTED,
    "fedrep": of("fedrep", LOCAL) | TESTED,
    "fedbn": of("fedbn", LOCAL) | NORM | TESTED,
    "pfedme": of("pfedme", LOCAL) | TESTED,
    "fedala": of("fedala", LOCAL) | TESTED,
    "feddbe": of("feddbe", LOCAL) | TESTED,
    "moon": of("moon", LOCAL),
    "gpfl": of("gpfl", LOCAL) | TESTED,
    "fedcp": of("fedcp", LOCAL) | TESTED,
    "per_fedavg": of("per_fedavg", {"alpha": 0.05, "beta": 0.05, "steps": 2, "batch-size": 8}),
    "transfer": of("transfer", {}) | LABELS,
    "augavg": of("augavg", LOCAL) | LABELS,
    "augfl": of("augfl", AUGFL) | LABELS,
    "augfl-forward": of("augfl", {**AUGFL, "difference": "forward", "server-steps": 1}) | LABELS,
    "augfl-alone": of("augfl", {**AUGFL, "lambda": 0.0, "weights": "equal"}),
    "augfl-light": of("augfl", AUGFL, model="cnn-tiny+head") | LABELS,
    "augfl-exact": of("augfl", {**AUGFL, "update": "exact", "server-steps": 1})
    | LABELS | {"knowledge.cross-entropy": 0.0, "knowledge.squared-distance": 0.5},
}  # fmt: skip
SHARED = {
    "rounds": 4, "data.sources": 5, "data.targets": 4, "evaluation.every": 2, "run-name": "golden",
    "round.deadline": 1.5, "round.return-timeout": 0.0, "model": "cnn-tiny", "seed": 3,
}  # fmt: skip


def interfere(message: Message, reply: Message) -> Message | None:
    """Client 0 is silent in round 2, client 1 fails in round 3, client 2 sends NaN in round 2."""
    if not message.metadata.message_type.startswith("train"):
        return reply
    match message.metadata.group_id, message.metadata.dst_node_id - FIRST_NODE:
        case "2", 0:
            return None
        case "3", 1:
            return Message(Error(2, "no power"), reply_to=message)
        case "2", 2:
            reply.content.config_records["fields"]["loss"] = float("nan")
    return reply


def play(name: str, folder: Path) -> dict[str, Any]:
    from deploy.simulate import simulate

    server, config = own_server(folder), {**SHARED, **RUNS[name]}
    if "+" in config["model"]:
        config["pretrained-weights"] = backbone(folder)
    with threadpool_limits(1):  # NumPy's singular values depend on the number of threads
        path = simulate(config, server, lambda _: None, interfere=interfere)
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return {"processor": processor(), "models": models(path), "record": [*map(kept, lines)]}


def models(path: Path) -> dict[str, Any]:
    """Digest of all bytes of parameters and buffers, and some values for other processors.

    Where models are the clients' own, it is of what the server keeps instead.
    """
    result = {}
    files = sorted((path / "models").glob("*.safetensors"))
    for file in files or [max((path / "checkpoints").glob("*.safetensors"))]:
        groups, _ = parse(file.read_bytes(), file.name)
        vectors = [
            vector
            for group in (("model", "buffers") if files else sorted(groups))
            for dtype, vector in groups[group].vectors.items()
            if files or dtype == "float32"
        ]
        content = b"".join(vector.tobytes() for vector in vectors)
        values = np.concatenate([vector.astype(np.float64) for vector in vectors])
        some = values[:: max(1, len(values) // 40)]
        result[file.stem] = {"sha256": hashlib.sha256(content).hexdigest(), "some": some.tolist()}
    return result


def kept(line: dict[str, Any]) -> dict[str, Any]:
    """What of a line of the record does not depend on time or machine."""
    line = {k: v for k, v in line.items() if k not in ("time", "seconds")}
    for entry in line.get("clients", []):
        entry.pop("seconds", None)
    return line


def processor() -> str:
    return f"{torch.__version__} {torch.backends.cpu.get_cpu_capability()} numpy {np.__version__}"


def flat(value: Any, where: str = "") -> dict[str, Any]:
    """Leaves by their path."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value)
    result: dict[str, Any] = {}
    for key, item in items:
        path = f"{where}/{key}"
        result |= flat(item, path) if isinstance(item, dict | list) else {path: item}
    return result


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_what_it_was(name: str, tmp_path: Path):
    golden = json.loads((FOLDER / f"{name}.json").read_text())
    now = json.loads(json.dumps(play(name, tmp_path)))
    if now["processor"] == golden["processor"]:
        assert now == golden
        return
    # Another processor sums in another order: the last bits differ, and nothing else.
    old, new = flat(golden), flat(now)
    assert old.keys() == new.keys()
    for path, value in old.items():
        if isinstance(value, float):
            assert new[path] == pytest.approx(value, rel=1e-3, abs=1e-4), path
        elif not path.endswith("sha256") and path != "/processor":
            assert new[path] == value, path


def write(report: Callable[[str], None] = print) -> None:
    """Write all golden runs anew."""
    torch.set_num_threads(1)
    for name in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            content = json.dumps(play(name, Path(folder)), indent=1)
        (FOLDER / f"{name}.json").write_text(f"{content}\n")
        report(name)


if __name__ == "__main__":
    write()
