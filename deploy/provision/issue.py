"""Issue and renew a fleet's certificates, and keep its secrets."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from common.errors import FleetError
from deploy.provision import certificates as x509
from deploy.provision.registry import Registry
from deploy.provision.settings import ServerSettings
from deploy.provision.store import PUBLIC, SECRET, put


def authority(
    registry: Registry, folder: Path, notes: list[str], now: datetime, within: timedelta
) -> bytes:
    """The CA's certificate, PEM, made or renewed when it ends within ``within``.

    Raises
    ------
    FleetError: its key is needed, but is not there.
    """
    path = folder / "ca" / "ca.crt"
    old = path.read_bytes() if path.exists() else None
    if old and x509.expiry(old) > now + within:
        return old
    if old and not path.with_name("ca.key").exists():
        raise _no_ca_key(folder, "the CA's certificate ends")
    key = kept(path.with_name("ca.key"), x509.new_key())
    new = x509.make_authority(key, registry.name, registry.server.ca_days, now)
    put(path, new, PUBLIC)
    if old:
        notes.append(
            f"the CA was renewed with its old key: give each device its new ca.crt before "
            f"{x509.expiry(old):%Y-%m-%d}"
        )
    return new


def server_certificate(
    server: ServerSettings,
    ca: bytes,
    folder: Path,
    place: str,
    notes: list[str],
    now: datetime,
    within: timedelta,
) -> tuple[bytes, bytes]:
    """The private key and certificate of the server or a leaf, PEM; new when it no longer fits.

    Parameters
    ----------
    place: of its kit in the fleet's folder.

    Raises
    ------
    FleetError: the CA's key is needed, but is not there.
    """
    whose = "the server" if place == "server" else place.rpartition("/")[2]
    key = kept(folder / place / "server.key", x509.new_key())
    path = folder / place / "server.crt"
    names, renewed = x509.alternative_names(server.names), path.exists()
    if renewed:
        old = path.read_bytes()
        # An authority about to end bounds the certificate's end: renewing again gains nothing.
        fresh = x509.expiry(old) > now + within or x509.expiry(old) >= x509.expiry(ca) > now
        if fresh and _fits(old, key, ca, names):
            return key, old
    signer = folder / "ca" / "ca.key"
    if not signer.exists():
        raise _no_ca_key(folder, f"{whose} needs a new certificate")
    new = x509.make_server_certificate(
        signer.read_bytes(), ca, key, server.names, server.certificate_days, now
    )
    put(path, new, PUBLIC)
    if renewed:
        notes.append(
            f"{whose} has a new certificate, until {x509.expiry(new):%Y-%m-%d}: deliver its "
            "kit and restart it"
        )
    return key, new


def _fits(certificate: bytes, key: bytes, ca: bytes, names: list[str]) -> bool:
    return (
        x509.belongs_to(certificate, key)
        and x509.signed_by(certificate, ca)
        and set(x509.names_in(certificate)) == set(names)
    )


def _no_ca_key(folder: Path, reason: str) -> FleetError:
    return FleetError(f"{reason}, but {folder}/ca/ca.key is not there: put it back for this call")


def kept(path: Path, fallback: bytes) -> bytes:
    """The secret in a file; ``fallback``, written there, when there is none."""
    if not path.exists():
        put(path, fallback, SECRET)
    return path.read_bytes()
