"""The demo: a real fleet on loopback, fleet and server alone and together, and one page.

The server has images of five of the ten digits only, and so has its private model. What it knows it
transfers; the other five are the devices' to teach.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.config import DataSettings
from common.errors import FleetError
from common.files import read_json
from deploy.fleet import Fleet, NodeSpec
from deploy.node import free_port
from deploy.pretrain import pretrain_model
from deploy.simulate import node_configs
from server_app.private.settings import PretrainSettings
from server_app.report.write import write_report

ROOT = Path(__file__).parents[1]
DATA = DataSettings()
TARGET_NODES = 2
POINT: dict[str, Any] = {
    "data.server-classes": 5,
    "data.pretrain-images": 250,
    "data.server-images": 150,
}
KNOWLEDGE: dict[str, Any] = {
    "knowledge.cross-entropy": 0.0,
    "knowledge.crd": 0.0,
    "knowledge.tasks": 1.0,
    "knowledge.batch-size": 128,
}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "fedavg": ("The fleet alone: FedAvg", {"method": "fedavg"}),
    "transfer": ("The server alone: transfer, no device trains", {"method": "transfer"}),
    "augfl": ("Both: AugFL", {"method": "augfl"}),
    "augavg": ("Both: AugAvg", {"method": "augavg"}),
}
"""Name of a run -> its title and its settings beside those that all share."""


def demo(rounds: int, folder: Path, console: Console) -> Path:
    """Train the private model, start the fleet, run all four, compare; returns the page.

    Raises
    ------
    FleetError: a process of the fleet ended, or a run failed.
    """
    begun = time.monotonic()
    folder = folder.absolute() / time.strftime("%Y%m%d-%H%M%S")
    private = folder / "server" / "private-model"
    console.print(
        _titled(
            "AugFlower demo",
            f": {DATA.sources} devices train, {DATA.targets} other clients on {TARGET_NODES} "
            f"devices never do; {rounds} rounds in four ways. The server has images of "
            f"{POINT['data.server-classes']} of ten digits, the fleet of all.",
        ),
        soft_wrap=True,
    )
    console.print()
    console.print(_titled("1. The server trains its private model", " on images of its own"))
    settings = PretrainSettings(epochs=10)
    model = pretrain_model(private, POINT, "cnn-wide", settings, console=console)
    held_out = 100 * (model.accuracy or 0.0)
    console.print(f"   right on {held_out:.1f} % of held-out images of these; it stays here\n")
    console.print(_titled("2. The fleet", ": a SuperLink and its SuperNodes, over gRPC"))
    nodes = [
        NodeSpec(f"device-{number}", config)
        for number, config in enumerate(node_configs(DATA, TARGET_NODES))
    ]
    watch = f"127.0.0.1:{free_port()}"
    server = {
        "AUGFLOWER_WATCH": watch,
        "AUGFLOWER_PRIVATE_MODEL": str(private),
        "AUGFLOWER_RUNS": str(folder),
        "AUGFLOWER_CACHE": str(folder / "server" / "cache"),
    }
    with Fleet(
        folder / "fleet", nodes, server_environment=server,
        notice=lambda text: console.print(f"   {text}", style="dim", soft_wrap=True),
    ) as fleet:  # fmt: skip
        console.print(f"   watch the runs at http://{watch}/", style="dim")
        for number, (name, (title, changes)) in enumerate(RUNS.items(), 3):
            console.print()
            console.print(_titled(f"{number}. {title}"))
            shared = {"round.nodes": DATA.sources + TARGET_NODES, "evaluation.every": 5}
            config = {**POINT, **KNOWLEDGE, **shared, **changes, "rounds": rounds}
            _run(fleet, folder, name, config, console)
    paths = [folder / name for name in RUNS]
    page = write_report(paths, folder / "comparison.html")
    console.print()
    console.print(_titled(f"{len(RUNS) + 3}. On clients that never took part"))
    console.print(_table(paths))
    console.print(f"The page: {os.path.relpath(page)}", soft_wrap=True)
    console.print(f"Everything is in {os.path.relpath(folder)}; {time.monotonic() - begun:.0f} s")
    return page


def _titled(title: str, more: str = "") -> Text:
    return Text.assemble((title, "bold"), more)


def _run(fleet: Fleet, folder: Path, name: str, config: dict[str, Any], console: Console) -> None:
    run_id = fleet.submit(ROOT, {**config, "run-name": name})
    record = _lines(folder / name / "metrics.jsonl", int(config["rounds"]))

    def show(_: object) -> None:
        for text in next(record):
            console.print(f"   {text}", soft_wrap=True)

    status = fleet.wait(run_id, timeout=1800, on_poll=show)
    show(None)
    meta = folder / name / "run.json"
    outcome = read_json(meta) if meta.exists() else {"status": "not started"}
    if outcome["status"] != "finished":
        raise FleetError(
            f"the run {name!r} is {outcome['status']} ({status.status}): "
            f"{outcome.get('error') or status.details or 'see ' + str(fleet.log('superexec'))}"
        )


def _lines(path: Path, rounds: int) -> Iterator[list[str]]:
    """Each time it is asked: summaries of the rounds recorded since."""
    from server_app.rounds.loop import summary

    read = 0
    while True:
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1][read:]
        read += len(whole)
        lines = [json.loads(line) for line in whole.splitlines()]
        yield [summary(line["round"], rounds, line) for line in lines]


def _table(paths: list[Path]) -> Table:
    table = Table()
    for title in ("", "untrained", "before adaptation", "after one step", "spread of clients"):
        table.add_column(title, justify="left" if not title else "right")
    for path in paths:
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        evaluated = [line["evaluation"] for line in lines if line.get("evaluation")]
        first, last = evaluated[0], evaluated[-1]
        table.add_row(
            RUNS[path.name][0],
            f"{100 * first['accuracy_after']:.1f} %",
            f"{100 * last['accuracy_before']:.1f} %",
            f"{100 * last['accuracy_after']:.1f} %",
            f"{100 * last['std_after']:.1f}",
        )
    return table
