"""Where things lie on an installed machine, in a container as much as outside of one."""

from __future__ import annotations

from pathlib import Path

from deploy.environment import flower_environment

INSTALL = "/opt/augflower"  # virtual environment
USER = "augflower"
STATE = "/var/lib/augflower"  # a node's volume in a container, so that any uid may write to it
FLOWER = "1.39"  # the minor release that both sides must have


def config_folder(name: str) -> str:
    """Keys and settings of one node, or of the ``server``."""
    return f"/etc/augflower/{name}"


def state_folder(name: str) -> str:
    """What one node, or the ``server``, remembers."""
    return f"{STATE}/{name}"


def environment(name: str, threads: int | None = None) -> dict[str, str]:
    """Environment of every process of a node or the server; nothing secret is in it."""
    state = state_folder(name)
    # Libraries keep what they fetch or compute in ~/.cache: of all places, only the state folder
    # may be written to and lasts.
    base = {"PYTHONUNBUFFERED": "1", "HOME": state}
    variables = flower_environment(Path(state, "flower"), threads, base=base)
    del variables["PATH"]  # that of this machine
    return variables


def join_address(host: str, port: int) -> str:
    """``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
