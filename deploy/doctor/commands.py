"""``augflower doctor``: examine this device or server, name causes and remedies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from common.errors import SettingsError
from deploy.assignments import parse_assignments
from deploy.doctor.examine import examine
from deploy.doctor.finding import Finding, exit_code, to_json
from deploy.doctor.table import findings_table, summary
from deploy.doctor.target import Device, Server, read_kit


def doctor(
    kit: Annotated[
        Path | None, typer.Option(help="Folder of a node's or the server's kit.")
    ] = None,
    server: Annotated[str | None, typer.Option(help="Address of the server, host:port.")] = None,
    ca: Annotated[Path | None, typer.Option(help="Certificate of the fleet's CA.")] = None,
    key: Annotated[Path | None, typer.Option(help="Private key of this node.")] = None,
    state: Annotated[Path | None, typer.Option(help="Folder of the durable memory.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of labelled images.")] = None,
    teachers: Annotated[Path | None, typer.Option(help="File of the device's teachers.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Model of the run, or its number of parameters.")
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="A setting of the run to come."),
    ] = None,
    insecure: Annotated[bool, typer.Option(help="Plaintext; for loopback only.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Findings as JSON.")] = False,
) -> None:
    """Examine this machine before a run does; exit with 1 when something will fail."""
    given = {
        "server": server,
        "ca": ca,
        "key": key,
        "state": state,
        "data": data,
        "teachers": teachers,
        "model": model,
        "run": parse_assignments(run) if run else None,
        "insecure": insecure or None,
    }
    target = _target(kit, {name: value for name, value in given.items() if value is not None})
    findings = _watched(target, quiet=json)
    if json:
        print(to_json(findings))
    else:
        console = Console(highlight=False)
        console.print(findings_table(findings))
        console.print(summary(findings), markup=False)
    raise typer.Exit(exit_code(findings))


def _target(kit: Path | None, given: dict[str, object]) -> Device | Server:
    if kit is None:
        if "server" not in given:
            raise SettingsError("give --kit with a kit's folder, or --server with host:port")
        return Device(**given)  # type: ignore[arg-type]
    target = read_kit(kit)
    known = {"state", "run"} if isinstance(target, Server) else given.keys()
    if strange := sorted(given.keys() - known):
        raise SettingsError(f"--{strange[0].replace('_', '-')} does not go with the server's kit")
    return replace(target, **given)  # type: ignore[arg-type]


def _watched(target: Device | Server, *, quiet: bool) -> list[Finding]:
    findings: list[Finding] = []
    console = Console(stderr=True, quiet=quiet)
    with console.status("examining this machine") as status:
        for finding in examine(target):
            findings.append(finding)
            status.update(f"examining this machine: {finding.check} done")
    return findings
