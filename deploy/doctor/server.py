"""What only the server has: its certificate, its control port, and the list of nodes."""

from __future__ import annotations

import socket
import stat
from datetime import UTC, datetime
from pathlib import Path

from common.errors import FleetError
from deploy.doctor.encryption import RENEW, SOON
from deploy.doctor.finding import Finding, error, ok, warning
from deploy.provision import certificates as x509
from deploy.provision.loopback import is_loopback
from deploy.provision.register import register


def check_certificate(kit: Path, names: list[str], now: datetime | None = None) -> Finding:
    """Whether the server's certificate, key and CA in a kit belong together and are valid."""
    now = now or datetime.now(UTC)
    try:
        ca, certificate, key = (
            (kit / name).read_bytes() for name in ("ca.crt", "server.crt", "server.key")
        )
        mode = stat.S_IMODE((kit / "server.key").stat().st_mode)
        fits = x509.belongs_to(certificate, key)
        signed, end = x509.signed_by(certificate, ca), x509.expiry(certificate)
    except OSError as problem:
        return error(
            "certificate",
            f"{problem.filename} cannot be read: {problem.strerror}",
            "install the server's kit again, as the user that runs the SuperLink",
        )
    except ValueError as problem:
        return error("certificate", f"a file in {kit} is damaged: {problem}", _DELIVER)
    if not fits or not signed:
        other = "server.key" if not fits else "ca.crt"
        return error("certificate", f"server.crt does not belong to {other}", _DELIVER)
    if missing := sorted(set(names) - set(x509.names_in(certificate))):
        return error("certificate", f"it does not name {', '.join(missing)}", _DELIVER)
    if now > end:
        return error("certificate", f"it ended on {end:%Y-%m-%d}: no node trusts it", RENEW)
    if mode & 0o077:
        path = kit / "server.key"
        return warning("certificate", f"{path} has mode {mode:04o}", f"chmod 600 {path}")
    if now > end - SOON:
        return warning("certificate", f"it ends on {end:%Y-%m-%d}", RENEW)
    return ok("certificate", f"for {', '.join(names)}, until {end:%Y-%m-%d}")


def check_control_port(names: list[str], port: int, timeout: float = 2.0) -> Finding:
    """Whether the Control API can be reached under a name that other machines use."""
    for name in names:
        if is_loopback(name):
            continue
        try:
            socket.create_connection((name, port), timeout).close()
        except OSError:
            continue
        return error(
            "control port",
            f"port {port} answers at {name}: it has no accounts, so whoever reaches it can run "
            "code on every node",
            "start the SuperLink with --host 127.0.0.1, as the kit does, or close the port",
        )
    return ok("control port", f"port {port} answers at none of {', '.join(names)}")


def check_registrations(kit: Path) -> Finding:
    """Whether the SuperLink knows the admitted nodes, and only these; nothing is changed."""
    try:
        state = register(kit, dry=True)
    except FleetError as problem:
        return error(
            "nodes",
            str(problem),
            "mend the errors above, then start the SuperLink: systemctl status augflower-*",
        )
    remedy = f"augflower provision register {kit}"
    if state.refused:
        names = ", ".join(state.refused)
        return error(
            "nodes",
            f"{names}: the key was unregistered before, and is never taken twice",
            f"augflower provision renew {' '.join(state.refused)}",
        )
    if state.unregistered:
        names = ", ".join(name for name, _ in state.unregistered)
        return error("nodes", f"{names}: revoked, but still registered", remedy)
    if state.registered:
        return error("nodes", f"{', '.join(state.registered)}: not registered yet", remedy)
    if state.unknown:
        ids = ", ".join(str(number) for number in state.unknown)
        return warning(
            "nodes",
            f"registered, but not in the list: {ids}",
            "flwr supernode unregister <id>, or add them to fleet.yaml",
        )
    return ok("nodes", f"{len(state.unchanged)} nodes are registered")


_DELIVER = "provision the fleet again and deliver the server's kit"
