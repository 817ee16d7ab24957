"""The command line: ``augflower COMMAND``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from common.errors import AugFlowerError

app = typer.Typer(
    name="augflower",
    help="Federated learning for small devices, helped by large pretrained models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(highlight=False)

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="A public setting; may be repeated."),
]


@app.command()
def demo(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each run.")] = 20,
    folder: Annotated[Path, typer.Option(help="Where the runs go.")] = Path("runs/demo"),
) -> None:
    """Start a fleet on this machine and compare AugFL with and without the private model."""
    from deploy.demo import demo as run_demo

    run_demo(rounds, folder, console)


@app.command()
def pretrain(
    out: Annotated[Path, typer.Argument(help="Folder for the private model.")],
    settings: Settings = None,
    architecture: Annotated[str, typer.Option(help="Any model name, or a checkpoint.")] = "",
    epochs: Annotated[int, typer.Option(min=1)] = 10,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Train the private model on the server's own data."""
    from deploy.pretrain import pretrain_model

    card = pretrain_model(out, settings or [], architecture, epochs, seed, console)
    console.print(f"{out}: {card}")


@app.command()
def simulate(settings: Settings = None) -> None:
    """Run in this process: the same code and messages as a fleet, without a network."""
    from deploy.run_config import parse_assignments
    from deploy.simulate import simulate as run_simulation
    from server_app.settings import read_server_settings

    overrides = parse_assignments(settings or [])
    folder = run_simulation(overrides, read_server_settings(), console.print)
    console.print(f"report: {folder / 'report.html'}")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    out: Annotated[Path | None, typer.Option(help="The page; by default beside the run.")] = None,
) -> None:
    """Write a page about a run, or compare several."""
    from server_app.runs.report import write_report

    target = out or (runs[0] / "report.html" if len(runs) == 1 else Path("comparison.html"))
    console.print(f"wrote {write_report(runs, target)}")


@app.command()
def adapt(
    model: Annotated[Path, typer.Argument(help="A model file of a run.")],
    folder: Annotated[Path, typer.Argument(help="Labelled images, one subfolder for each class.")],
    out: Annotated[Path, typer.Option(help="The adapted model.")] = Path("adapted.safetensors"),
    steps: Annotated[int | None, typer.Option(min=0, help="Gradient steps.")] = None,
    alpha: Annotated[float | None, typer.Option(min=0, help="Step size.")] = None,
    support_fraction: Annotated[float, typer.Option(help="Share of images to adapt on.")] = 0.5,
) -> None:
    """Adapt a model to a few labelled images: what a new device does."""
    from deploy.adapt import adapt_model

    done = adapt_model(
        model, folder, out, steps=steps, alpha=alpha, support_fraction=support_fraction
    )
    console.print(
        f"adapted on {done.support} images, judged on {done.query} others: "
        f"{100 * done.before:.1f} % before, {100 * done.after:.1f} % after"
    )
    console.print(f"wrote {done.path}")


@app.command()
def settings(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Print all public settings with their defaults."""
    from deploy.run_config import default_config, to_toml

    config = default_config()
    print(json.dumps(config, indent=2) if as_json else to_toml(config), end="")


def main() -> None:
    """Run a command; errors raised on purpose are printed plainly."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    try:
        app()
    except AugFlowerError as error:
        Console(stderr=True, highlight=False).print(f"[red]error:[/red] {error}", soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
