"""The kit of one node: its key, the CA's certificate, its settings, and how to start it."""

from __future__ import annotations

from pathlib import PurePosixPath

import tomli_w
import yaml

from deploy.provision.hardware import HARDWARE
from deploy.provision.places import (
    FLOWER,
    INSTALL,
    STATE,
    config_folder,
    environment,
    join_address,
    state_folder,
)
from deploy.provision.registry import Registry
from deploy.provision.settings import FleetNode
from deploy.provision.store import PROGRAM, SECRET, Kit, KitFile
from deploy.provision.templates import fill, install_script, unit

_SHARED = (
    "image", "platform", "user", "environment", "restart", "cap_drop", "security_opt"
)  # fmt: skip
"""Of a node's container, what the one that serves has as well."""


def superlink_address(registry: Registry, node: FleetNode) -> str:
    """Where a node finds the server, or its leaf."""
    server = registry.server
    if node.behind:
        leaf = registry.nodes[node.behind].settings.leaf
        assert leaf is not None
        server = leaf
    return join_address(node.server or server.names[0], server.fleet_port)


def node_command(name: str, registry: Registry) -> list[str]:
    """The command that starts a warm node, with the paths of an installed machine."""
    node, config = registry.nodes[name].settings, config_folder(name)
    options = {
        "--superlink": superlink_address(registry, node),
        "--root-certificates": f"{config}/ca.crt",
        "--auth": f"{config}/node.key",
        "--node-config": f"{config}/node.toml",
        "--port": str(node.port),
    }
    return ["augflower", "node", *(part for option in options.items() for part in option)]


def serve_command(name: str, node: FleetNode) -> list[str]:
    """The command that has the node's newest model answer on the device."""
    aside = ["--put-aside", aside_folder(name)] if node.put_aside else []
    return ["augflower", "serve", state_folder(name), "--listen", served_at(node), *aside]


def served_at(node: FleetNode) -> str:
    """Where the model at work answers."""
    return f"127.0.0.1:{node.serve_port}"


def aside_folder(name: str) -> str:
    """Where images that the model was unsure of wait for a label."""
    return f"{state_folder(name)}/unsure"


def node_kit(name: str, registry: Registry, key: bytes, ca: bytes) -> Kit:
    """All files of a node's kit.

    Parameters
    ----------
    key: the node's private key, OpenSSH.
    ca: the CA's certificate, PEM.
    """
    admitted = registry.nodes[name]
    node, hardware = admitted.settings, HARDWARE[admitted.settings.hardware]
    service, command = f"augflower-{name}.service", node_command(name, registry)
    variables = environment(name, threads=node.threads or hardware.threads)
    about = {
        "fleet": registry.name,
        "name": name,
        "hardware": node.hardware,
        "superlink": superlink_address(registry, node),
        "flower": FLOWER,
    }
    readme = fill(
        "node.md",
        name=name,
        fleet=registry.name,
        service=service,
        address=about["superlink"],
        config=config_folder(name),
        state=state_folder(name),
        note=hardware.note,
        teacher=_about_teacher(name, node),
        serve=_about_serving(name, node),
    )
    settings = node.config(state_folder=state_folder(name), threads=hardware.threads)
    texts = {
        "node.toml": tomli_w.dumps(settings),
        "kit.toml": tomli_w.dumps(about),
        service: unit(
            description=f"AugFlower node {name} of {registry.name}",
            name=name,
            command=command,
            variables=variables,
            groups=hardware.groups,
        ),
        "compose.yaml": _compose(name, node, command, variables),
        "README.md": readme,
    }
    units = [service]
    if node.serve:
        units.append(serving_service(name))
        texts[units[-1]] = unit(
            description=f"Model at work on node {name} of {registry.name}",
            name=name,
            command=serve_command(name, node),
            variables=variables,
        )
    files = {path: KitFile(text.encode()) for path, text in texts.items()}
    configuration = ["ca.crt", "node.key", "node.toml", "kit.toml"]
    needed = [path for path in (node.data_folder, node.teachers) if path]
    script = install_script(name, units=units, files=configuration, needed=needed)
    return files | {
        "node.key": KitFile(key, SECRET),
        # To those who know it, Flower's SuperLink believes that the node is online.
        "node.pub": KitFile(f"{admitted.public_key}\n".encode(), SECRET),
        "ca.crt": KitFile(ca),
        "install.sh": KitFile(script.encode(), PROGRAM),
    }


def image(node: FleetNode) -> str:
    """The container image of a node; teachers need a library that the others do without."""
    return HARDWARE[node.hardware].image + ("-teacher" if node.teachers else "")


def teachers_mount(name: str, file: str) -> str:
    """What a container mounts for its teachers: the folder of their file, as weights lie beside it.

    The file alone where its folder is one in which the container has its own things.
    """
    folder = PurePosixPath(file).parent
    own = (config_folder(name), STATE)
    crowded = any(PurePosixPath(place).is_relative_to(folder) for place in own)
    return file if crowded else str(folder)


def _about_teacher(name: str, node: FleetNode) -> str:
    if not node.teachers:
        return ""
    return fill(
        "teacher.md",
        file=node.teachers,
        mount=teachers_mount(name, node.teachers),
        image=image(node),
        install=INSTALL,
        state=state_folder(name),
        config=config_folder(name),
    )


def serving_service(name: str) -> str:
    """Name of the unit that serves."""
    return f"augflower-{name}-serve.service"


def _about_serving(name: str, node: FleetNode) -> str:
    if not node.serve:
        return ""
    return fill(
        "serve.md",
        service=serving_service(name),
        listen=served_at(node),
        aside=aside_folder(name),
        install=INSTALL,
    )


def _compose(name: str, node: FleetNode, command: list[str], variables: dict[str, str]) -> str:
    hardware = HARDWARE[node.hardware]
    alive = ["CMD", "python3", "-IS", "/opt/augflower/healthy.py", f"127.0.0.1:{node.port}/health"]
    health = {"interval": "30s", "timeout": "30s", "start_period": "120s"}
    places = [teachers_mount(name, node.teachers)] if node.teachers else []
    places = [node.data_folder, *places] if node.data_folder else places
    service = {
        "image": image(node),
        "platform": hardware.platform,
        **({"runtime": "nvidia"} if hardware.nvidia else {}),
        "user": "${FLEET_USER:-1000:1000}",
        "command": command,
        "environment": variables,
        "volumes": [
            f".:{config_folder(name)}:ro",
            f"{name}-state:{STATE}",
            *(f"{place}:{place}:ro" for place in dict.fromkeys(places)),
        ],
        "restart": "unless-stopped",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "healthcheck": {"test": alive, **health},
    }
    services = {name: service}
    if node.serve:
        look = ["CMD", "python3", "-IS", "/opt/augflower/healthy.py", f"{served_at(node)}/healthz"]
        services[f"{name}-serve"] = {
            **{key: service[key] for key in _SHARED},
            "command": serve_command(name, node),
            "network_mode": "host",  # its port is the device's own loopback
            "volumes": [f"{name}-state:{STATE}"],
            "healthcheck": {**health, "test": look},
        }
    content = {"services": services, "volumes": {f"{name}-state": {}}}
    return yaml.safe_dump(content, sort_keys=False)
