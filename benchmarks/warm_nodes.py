"""Seconds a round: Flower's own devices against warm ones, on this machine, in one go.

A round is two exchanges with every device, as training and evaluation are: the model goes down,
one small backward pass is made, and an array of the model's size comes up. The server's loop, which
looks for replies every 0.05 s, is the same in both cases.

    python -m benchmarks.warm_nodes --nodes 3 10 --megabytes 0 10 --rounds 5
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from benchmarks.machine import footer
from deploy.control import Scalar
from deploy.fleet import Fleet, NodeSpec

COMMAND = "python -m benchmarks.warm_nodes"
TRIAL_APP = Path(__file__).parent.parent / "tests" / "deploy" / "trial_app"
console = Console(stderr=True, highlight=False)


def seconds_a_round(nodes: int, megabytes: float, rounds: int, warm: bool) -> list[float]:
    """Seconds of each round but the first, in which devices install the app."""
    devices = [NodeSpec(f"node-{number}") for number in range(nodes)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        with Fleet(Path(folder), devices, warm=warm, notice=console.print) as fleet:
            config: dict[str, Scalar] = {
                "plan": "train " * 2 * (rounds + 1),
                "nodes": nodes,
                "floats": max(10, round(megabytes * 1e6 / 4)),
                "quick": warm,
                "out": str(out),
                "deadline": 600.0,
            }
            status = fleet.wait(fleet.submit(TRIAL_APP, config))
        if status.result != "completed":
            raise SystemExit(f"the run {status.result}: {status.details}")
        exchanges = json.loads(out.read_text())["rounds"]
    if any("error" in reply for exchange in exchanges for reply in exchange["replies"]):
        raise SystemExit("a device replied with an error")
    seconds = [exchange["seconds"] for exchange in exchanges]
    return [a + b for a, b in zip(seconds[::2], seconds[1::2], strict=True)][1:]


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[3, 10])
    parser.add_argument("--megabytes", type=float, nargs="+", default=[0, 10])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = []
    for nodes in options.nodes:
        for megabytes in options.megabytes:
            medians = []
            for warm in (False, True):
                console.print(f"{nodes} devices, {megabytes:g} MB, {'warm' if warm else 'stock'}")
                found = seconds_a_round(nodes, megabytes, options.rounds, warm)
                medians.append(statistics.median(found))
            stock, quick = medians
            rows.append(
                f"| {nodes} | {megabytes:g} | {stock:.2f} | {quick:.2f} | {stock / quick:.1f} |"
            )
    print("| devices | model, MB | stock, s a round | warm, s a round | times faster |")
    print("|---:|---:|---:|---:|---:|")
    print("\n".join(rows))
    print(f"\nMedian of {options.rounds} rounds · flwr {version('flwr')} · {footer(COMMAND)}")


if __name__ == "__main__":
    main()
