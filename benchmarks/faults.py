"""One of ten devices lies, or leaves for good: what a run on the digits is worth in the end.

    python -m benchmarks.faults lies       # attacks on the model, the loss and rho
    python -m benchmarks.faults leaving    # one device leaves in the middle

10 sources and 10 targets, random class pairs, without a private model. The liar is a device that
works as it should and then sends something else, consistently with all that it has sent before;
"at the limit" it knows what the others send and what the gate lets pass. Accuracy is that of the
targets after one adaptation step, in percent, with the standard error over the seeds.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Context, Message

import client_app.methods
from benchmarks.machine import footer
from client_app.app import app
from common import registry
from common.config import DataSettings
from common.errors import RunError
from deploy.run_config import default_config
from deploy.simulate import node_configs, simulate
from server_app.settings import ServerSettings
from server_app.transport.in_process import FIRST_NODE, InProcessGrid
from server_app.validation.outliers import DEVIATIONS, OutlierBound

SOURCES = 10
ROUNDS = 40
LIAR = FIRST_NODE + SOURCES - 1
"""The last in the order of the sums, so that it can know what the others send."""

METHODS: dict[str, dict[str, Any]] = {
    "fedavg": {"fedavg.sgd.epochs": 5, "fedavg.sgd.batch-size": 10},
    "augfl": {"augfl.lambda": 0.0, "augfl.rho": 0.1},
}


@dataclass
class Liar:
    """Changes what one device makes of a round.

    Attributes
    ----------
    factor: of its change or gradient; None is what just passes the gate.
    drift: what is added more each round, in one direction, in lengths of its first.
    fields: other fields of its reply.
    since, until: first and last round of the attack.
    """

    factor: float | None = 1.0
    drift: float = 0.0
    fields: dict[str, float] = field(default_factory=dict)
    since: int = 1
    until: int = ROUNDS
    _seen: dict[int, list[float]] = field(default_factory=dict)

    def see(self, round: int, vector: np.ndarray) -> None:
        """What an honest device sends, or would."""
        self._seen.setdefault(round, []).append(float(np.linalg.norm(vector)))

    def scale(self, round: int) -> float:
        """Factor by which its own is multiplied in a round."""
        if not self.since <= round <= self.until:
            return 1.0
        if self.factor is not None:
            return self.factor
        bound = OutlierBound(self._seen[past] for past in sorted(self._seen) if past < round)
        limit = 0.9 * bound.limit(DEVIATIONS, self._seen[round])
        own = self._seen[round][-1]
        self._seen[round][-1] = limit  # it has a say in what is usual
        return -limit / own

    def drifted(self, round: int, vector: np.ndarray) -> np.ndarray:
        """A vector and what has been added to it until a round."""
        direction = np.random.default_rng(7).normal(size=vector.size)
        length = self.drift * self._seen[1][-1] * max(0, round - self.since + 1)
        return vector + (length / np.linalg.norm(direction) * direction).astype(vector.dtype)


ATTACKS: dict[str, Liar] = {
    "none": Liar(),
    "reversed": Liar(-1.0),
    "3 times, reversed": Liar(-3.0),
    "10 times, reversed": Liar(-10.0),
    "100 times, reversed": Liar(-100.0),
    "1e6 times, reversed": Liar(-1e6),
    "at the limit, reversed": Liar(None),
    "a drift of 1 more each round": Liar(drift=1.0, since=6),
    "a drift of 10 more each round": Liar(drift=10.0, since=6),
    "1e6 times in round 1": Liar(1e6, until=1),
    "1,000 times in round 1": Liar(1e3, until=1),
    "curvature 1e6 in round 1": Liar(fields={"curvature": 1e6}, until=1),
    "curvature 1e6": Liar(fields={"curvature": 1e6}),
    "loss 1e5": Liar(fields={"loss": 1e5}),
    "loss 1e5 from round 6 on": Liar(fields={"loss": 1e5}, since=6),
    "loss 10 from round 6 on": Liar(fields={"loss": 10.0}, since=6),
    "loss 0": Liar(fields={"loss": 0.0}),
}


def play(
    folder: Path, method: str, seed: int, client: Callable[[Message, Context], Message], **more: Any
) -> tuple[float, list[dict[str, Any]], str]:
    """Accuracy of the model at the end, the record, and why the run ended early, if it did."""
    data = DataSettings(sources=SOURCES, targets=10, seed=seed)
    name = f"run-{len(list(folder.glob('*')))}"
    config = {
        "rounds": ROUNDS, "evaluation.every": 10, "method": method, "seed": seed, "run-name": name,
        "data.seed": seed, "data.sources": SOURCES, "data.targets": 10, "round.return-timeout": 0.0,
        **METHODS[method], **more,
    }  # fmt: skip
    grid = InProcessGrid(client, node_configs(data), default_config() | config)  # type: ignore[arg-type]
    server = ServerSettings(runs=folder, cache=folder.parent / "cache")
    ended = ""
    try:
        simulate(config, server, lambda _: None, grid=grid)
    except RunError as error:
        ended = str(error)
    text = (folder / name / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    evaluated = [line["evaluation"] for line in lines if line.get("evaluation")]
    return 100 * evaluated[-1]["accuracy_after"], lines, ended


@contextmanager
def lying(method: str, liar: Liar) -> Iterator[Callable[[Message, Context], Message]]:
    """A fleet of which one device lies."""
    half = registry.load(client_app.methods, method)
    inner = "meta_gradient" if method == "augfl" else "train"
    honest, now = getattr(half, inner), {"node": 0, "round": 0}

    def dishonest(*arguments: Any, **options: Any) -> Any:
        found, round = honest(*arguments, **options), now["round"]
        vector = found.vector.numpy() if method == "augfl" else found.change.vector
        liar.see(round, vector)
        if now["node"] != LIAR:
            return found
        factor = np.float32(liar.scale(round))
        fields = {
            name: value for name, value in liar.fields.items()
            if hasattr(found, name) and liar.since <= round <= liar.until
        }  # fmt: skip
        if method == "augfl":
            lie = liar.drifted(round, vector) * factor if liar.drift else vector * factor
            return replace(found, vector=torch.from_numpy(lie), **fields)
        return replace(found, change=found.change.with_vector(factor * vector), **fields)

    def client(message: Message, context: Context) -> Message:
        now["node"], now["round"] = context.node_id, int(message.metadata.group_id or 0)
        return app(message, context)

    setattr(half, inner, dishonest)
    try:
        yield client
    finally:
        setattr(half, inner, honest)


def leaver(after: int) -> Callable[[Message, Context], Message]:
    """A fleet whose first source fails for good after a round."""

    def client(message: Message, context: Context) -> Message:
        train = message.metadata.message_type.startswith("train")
        if train and context.node_id == FIRST_NODE and int(message.metadata.group_id) > after:
            raise MemoryError("it has left")
        return app(message, context)

    return client


def lies(folder: Path, methods: list[str], names: list[str], seeds: int) -> str:
    """What one liar of ten does to a run."""
    table = [
        "| method | the liar sends | accuracy | honest rejected | of the liar | went back |",
        "| --- " * 6 + "|",
    ]
    for method in methods:
        for name in names:
            if "curvature" in name and method != "augfl":
                continue
            ends, honest, rejected, back, early = [], [], [], [], 0
            for seed in range(seeds):
                liar = replace(ATTACKS[name], _seen={})
                with lying(method, liar) as client:
                    accuracy, lines, ended = play(folder, method, seed, client)
                ends.append(accuracy)
                refused = [entry["node"] for line in lines for entry in line.get("rejected", [])]
                rejected.append(refused.count(str(LIAR)))
                honest.append(len(refused) - rejected[-1])
                back.append(sum(bool(line.get("method", {}).get("fell_back")) for line in lines))
                early += bool(ended)
            note = f"; {early} of {seeds} ended early" if early else ""
            table.append(
                f"| {method} | {name} | {spread(ends)}{note} | {np.mean(honest):.1f} "
                f"| {np.mean(rejected):.1f} | {np.mean(back):.1f} |"
            )
            print(table[-1], flush=True)
    return "\n".join(table)


def leaving(folder: Path, methods: list[str], seeds: int) -> str:
    """What a device that leaves does to a run, early and late."""
    table = [
        "| method | stays | leaves after round 10 | leaves after round 25 |",
        "| --- " * 4 + "|",
    ]
    for method in methods:
        cells = [
            spread([play(folder, method, seed, client)[0] for seed in range(seeds)])
            for client in (app, leaver(10), leaver(25))
        ]
        table.append(f"| {method} | " + " | ".join(cells) + " |")
        print(table[-1], flush=True)
    return "\n".join(table)


def spread(values: list[float]) -> str:
    """Mean and standard error."""
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{np.mean(values):.1f} ± {error:.1f}"


def main() -> None:
    """Print one of the tables."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("table", choices=["lies", "leaving"])
    parser.add_argument("--method", choices=list(METHODS), action="append")
    parser.add_argument("--lie", choices=list(ATTACKS), action="append")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--clipping", action="store_true", help="AugFL clips duals.")
    options = parser.parse_args()
    methods = options.method or list(METHODS)
    METHODS["augfl"] |= {"augfl.clipping": options.clipping}
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        runs.mkdir()
        if options.table == "lies":
            lies(runs, methods, options.lie or list(ATTACKS), options.seeds)
        else:
            leaving(runs, methods, options.seeds)
    print("\n" + footer("python -m benchmarks.faults " + shlex.join(sys.argv[1:])))


if __name__ == "__main__":
    main()
