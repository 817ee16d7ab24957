"""Texts of a kit: unit files, the install script and READMEs, with ``$names`` to fill in."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template

from deploy.provision.places import INSTALL, USER, config_folder, state_folder


def fill(template: str, **values: str) -> str:
    """A template with all its names filled in; a missing or surplus ``$`` is an error."""
    text = files(__name__).joinpath(template).read_text(encoding="utf-8")
    return Template(text).substitute(values)


def unit(
    description: str,
    name: str,
    command: Sequence[str],
    variables: Mapping[str, str],
    groups: str = "",
    after: str = "",
) -> str:
    """A systemd unit for one long-lived process of a node or the server.

    Parameters
    ----------
    name: the node, or ``server``; names its folders.
    groups: system groups beyond its own, separated by spaces.
    after: unit that should run before this one.
    """
    return fill(
        "process.service",
        description=description,
        name=name,
        user=USER,
        install=INSTALL,
        state=state_folder(name),
        command=f"{INSTALL}/bin/{shlex.join(command)}",
        environment="\n".join(f"Environment={key}={value}" for key, value in variables.items()),
        groups=f"SupplementaryGroups={groups}\n" if groups else "",
        after=f" {after}" if after else "",
    )


def install_script(
    name: str, units: Sequence[str], files: Sequence[str], needed: Sequence[str] = ()
) -> str:
    """A shell script that installs a kit for systemd; safe to run again.

    Parameters
    ----------
    needed: paths of the machine that the process must be able to read; the script says which it
        cannot.
    """
    return fill(
        "install.sh",
        install=INSTALL,
        user=USER,
        config=config_folder(name),
        state=state_folder(name),
        files=" ".join(files),
        units=" ".join(units),
        needed=shlex.join(needed),
    )
