"""Plaintext is for one machine only."""

from __future__ import annotations

import ipaddress

from common.errors import SettingsError


def is_loopback(host: str) -> bool:
    """Whether a host, by its literal name, is this machine and nothing else."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def require_loopback(host: str) -> str:
    """Allow ``--insecure`` for loopback; gives the sentence that must be shown then.

    Raises
    ------
    SettingsError: the host can be reached from, or is, another machine.
    """
    if not is_loopback(host):
        raise SettingsError(
            f"--insecure is for loopback only, and {host} is not: without TLS and keys anybody on "
            "the way can read the models and take part. Provision the fleet: "
            "augflower provision fleet.yaml"
        )
    return (
        "insecure: no TLS and no authentication; every user of this machine can take part. "
        "For more than one machine: augflower provision fleet.yaml"
    )
