"""Where a fleet's runs are submitted: said by the server's kit, or address by address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from common.errors import FleetError, SettingsError
from deploy.control import Control
from deploy.environment import flower_environment

Kit = Annotated[
    Path | None,
    typer.Option(
        "--kit", metavar="FOLDER", help="The server's kit, which says how to reach its SuperLink."
    ),
]
SuperLink = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Its Control API, as --host and --port.")
]
Certificates = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Of the authority of the fleet.")
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Plaintext, on this machine only.")]
DEFAULT = "127.0.0.1:8000"


@contextmanager
def connected(
    kit: Path | None,
    superlink: str | None,
    certificates: Path | None,
    insecure: bool,
    leaf: bool = False,
) -> Iterator[Control]:
    """The Control API of a SuperLink that answers, and whose certificate is trusted.

    Parameters
    ----------
    leaf: whether the kit may be that of a leaf, where runs are none of the operator's business.

    Raises
    ------
    SettingsError: what is given is too much, too little or no address.
    FleetError: it cannot be used; the cause and its remedy.
    """
    # Imported late: simulations do without what examines a connection.
    from deploy.doctor.address import split_address
    from deploy.doctor.control import check_control
    from deploy.doctor.target import Device, Server, read_kit
    from deploy.provision.loopback import require_loopback

    if kit is not None:
        if superlink or certificates or insecure:
            raise SettingsError("--kit says all: leave out --superlink, --root-certificates, and "
                                "--insecure")  # fmt: skip
        found = read_kit(kit)
        server = found.leaf if leaf and isinstance(found, Device) else found
        if not isinstance(server, Server):
            raise SettingsError(f"{kit} is the kit of a node; give that of the server")
        superlink, certificates = f"127.0.0.1:{server.control_port}", kit / "ca.crt"
    elif insecure == (certificates is not None):
        raise SettingsError(
            "give either --root-certificates FILE or --insecure, or --kit with the server's kit"
        )
    address = superlink or DEFAULT
    split_address(address)
    if certificates is None:
        require_loopback(address.rpartition(":")[0])
    elif not certificates.is_file():
        raise SettingsError(f"--root-certificates: there is no file {certificates}")
    finding = check_control(address, certificates)
    if finding.status == "error":
        raise FleetError(f"{finding.check}: {finding.cause}; {finding.remedy}")
    with TemporaryDirectory() as folder:
        home = Path(folder)
        with Control(address, home, flower_environment(home), certificates) as control:
            yield control
