"""Where things lie on an installed machine, in a container as much as outside of one."""

from __future__ import annotations

from collections.abc import Mapping

INSTALL = "/opt/augflower"  # virtual environment
USER = "augflower"
FLOWER = "1.39"  # the minor release that both sides must have
RESTING_ENVIRONMENT: Mapping[str, str] = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "PYTHONUNBUFFERED": "1",
}


def config_folder(name: str) -> str:
    """Keys and settings of one node, or of the ``server``."""
    return f"/etc/augflower/{name}"


def state_folder(name: str) -> str:
    """What one node, or the ``server``, remembers."""
    return f"/var/lib/augflower/{name}"


def environment(name: str, **more: str) -> dict[str, str]:
    """Environment of every process of a node or the server; nothing secret is in it."""
    return {"FLWR_HOME": f"{state_folder(name)}/flower", **RESTING_ENVIRONMENT, **more}


def join_address(host: str, port: int) -> str:
    """``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
