"""``augflower provision``: make a fleet's certificates, keys and kits, and look after them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from rich.console import Console
from typer.core import TyperGroup

from common.errors import FleetError
from deploy.provision import provision as fleet
from deploy.provision.example import write_example
from deploy.provision.register import Registration
from deploy.provision.register import register as align
from deploy.provision.settings import parse_node, read_fleet

console = Console(soft_wrap=True, highlight=False)
SETTINGS = Path("fleet.yaml")


class _FileFirst(TyperGroup):
    """``provision fleet.yaml`` is short for ``provision make fleet.yaml``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["make", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_FileFirst,
    no_args_is_help=True,
    help="Make and look after a fleet's certificates, keys and kits: provision fleet.yaml.",
)


def _example(asked: bool) -> None:
    if asked:
        write_example(SETTINGS)
        console.print(f"wrote {SETTINGS}; next: augflower provision {SETTINGS}", markup=False)
        raise typer.Exit


@app.callback()
def options(
    example: Annotated[
        bool,
        typer.Option(
            "--example", help="Write a fleet.yaml to begin with.", is_eager=True, callback=_example
        ),
    ] = False,
) -> None:
    """Make and look after a fleet's certificates, keys and kits: provision fleet.yaml."""


Folder = Annotated[Path, typer.Option("--fleet", help="Folder of the fleet.")]
Node = Annotated[str, typer.Argument(help="Name of the node.")]
FLEET = Path("fleet")


@app.command()
def make(
    settings: Annotated[Path, typer.Argument(help="Settings of the fleet.", metavar="FLEET.YAML")],
    folder: Folder = FLEET,
) -> None:
    """Make the fleet's folder, or complete it; existing keys are kept."""
    _report(fleet.provision(read_fleet(settings), folder))


@app.command()
def add(
    name: Node,
    settings: Annotated[
        list[str] | None, typer.Argument(help="Settings such as hardware=raspberry-pi.")
    ] = None,
    folder: Folder = FLEET,
) -> None:
    """Admit one more node, and register it if the server can be reached."""
    _report(fleet.add(folder, name, parse_node(name, _pairs(settings or []))))
    _align_if_reachable(folder)


@app.command()
def renew(
    names: Annotated[list[str] | None, typer.Argument(help="Nodes that get a new key.")] = None,
    folder: Folder = FLEET,
    days: Annotated[int, typer.Option(help="Renew what ends within so many days.")] = 30,
) -> None:
    """Renew certificates that end soon or, with names of nodes, the keys of these nodes."""
    if not names:
        _report(fleet.renew(folder, timedelta(days=days)))
        return
    for name in names:
        _report(fleet.renew_node(folder, name))
    _align_if_reachable(folder)


@app.command()
def revoke(name: Node, folder: Folder = FLEET) -> None:
    """Put a node out for good, also at the server if it can be reached."""
    _report(fleet.revoke(folder, name))
    _align_if_reachable(folder)


@app.command()
def register(
    folder: Annotated[Path, typer.Argument(help="The fleet, or the server's kit.")] = FLEET,
    control: Annotated[
        str | None, typer.Option(help="Address of the Control API, if not the kit's own.")
    ] = None,
) -> None:
    """Bring the running server in line with the list of admitted and revoked keys."""
    _show(align(folder, control))


def _pairs(settings: list[str]) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for item in settings:
        key, equals, value = item.partition("=")
        if not equals:
            raise typer.BadParameter(f"{item!r} is not of the form setting=value")
        pairs[key] = (
            int(value) if key in {"port", "threads", "most-images"} and value.isdigit() else value
        )
    return pairs


def _report(outcome: fleet.Outcome) -> None:
    for name in outcome.added:
        console.print(f"{name}: new key; kit in {outcome.folder / 'nodes' / name}", markup=False)
    for name in outcome.removed:
        console.print(f"{name}: revoked, its kit is deleted", markup=False)
    rest = [name for name in outcome.changed if name not in outcome.added]
    if rest:
        console.print(f"changed kits, to be delivered: {', '.join(rest)}", markup=False)
    for note in outcome.notes:
        console.print(note, markup=False)
    for what, end in outcome.expiries.items():
        console.print(f"certificate of the {what} ends on {end:%Y-%m-%d}", markup=False)


def _align_if_reachable(folder: Path) -> None:
    try:
        _show(align(folder))
    except FleetError as error:
        console.print(
            f"The server was not told: {error}. Bring {folder / 'server' / 'nodes.json'} into the "
            "server's kit and run there: augflower provision register /etc/augflower/server",
            markup=False,
        )


def _show(result: Registration) -> None:
    for name in result.registered:
        console.print(f"{name}: registered", markup=False)
    for name, _ in result.unregistered:
        console.print(f"{name}: unregistered", markup=False)
    for name in result.refused:
        console.print(
            f"{name}: its key was unregistered before and is never taken again; "
            f"augflower provision renew {name}",
            markup=False,
        )
    for number in result.unknown:
        console.print(
            f"{number}: registered, but not in the list; if it should not be: "
            f"flwr supernode unregister {number}",
            markup=False,
        )
    console.print(f"{len(result.unchanged)} registered before", markup=False)
