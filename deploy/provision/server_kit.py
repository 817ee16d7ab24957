"""The server's kit: its certificate, the nodes' public keys, and how to start both halves of it.

SuperLink and executor are two processes: a run then survives a crash of either, and only the
executor needs the private model. The Control API has no accounts, so it stays on loopback or, in
containers, on a network that the two have to themselves.
"""

from __future__ import annotations

import json

import tomli_w
import yaml

from deploy.provision.certificates import CONTROL
from deploy.provision.places import FLOWER, config_folder, environment, state_folder
from deploy.provision.registry import Registry
from deploy.provision.settings import ServerSettings
from deploy.provision.store import PROGRAM, SECRET, Kit, KitFile
from deploy.provision.templates import fill, install_script, unit
from deploy.superexec import LOOKS

NAME = "server"
LOOPBACK = "127.0.0.1"
HEALTH = "127.0.0.1:9096"  # the executor's, gRPC
SUPERLINK, EXECUTOR = "augflower-superlink.service", "augflower-executor.service"


def superlink_command(
    server: ServerSettings,
    host: str = LOOPBACK,
    config: str = config_folder(NAME),
    state: str = state_folder(NAME),
) -> list[str]:
    """The command that starts the SuperLink.

    Parameters
    ----------
    host: where its Control API listens.
    config: folder of the kit.
    state: folder of its database.
    """
    every = "[::]" if any(":" in name for name in server.names) else "0.0.0.0"
    options = {
        "--ssl-ca-certfile": f"{config}/ca.crt",
        "--ssl-certfile": f"{config}/server.crt",
        "--ssl-keyfile": f"{config}/server.key",
        "--fleet-api-address": f"{every}:{server.fleet_port}",
        "--host": host,
        "--port": str(server.control_port),
        "--database": f"{state}/superlink.db",
        "--isolation": "process",
        "--superexec-auth-secret-file": f"{config}/executor.secret",
    }
    switches = ["--enable-supernode-auth", "--disable-runtime-dependency-installation"]
    return ["augflower", "superlink", *switches, *(p for option in options.items() for p in option)]


def executor_command(
    server: ServerSettings,
    host: str = LOOPBACK,
    config: str = config_folder(NAME),
    health: str = HEALTH,
) -> list[str]:
    """The command that starts the executor of ServerApps.

    Parameters
    ----------
    host: of the Control API.
    config: folder of the kit.
    health: address that says whether it is well.
    """
    options = {
        "--runtime-api-address": f"{host}:{server.control_port}",
        "--health-server-address": health,
        "--root-certificates": f"{config}/ca.crt",
        "--superexec-auth-secret-file": f"{config}/executor.secret",
    }
    return ["augflower", "superexec", *(part for option in options.items() for part in option)]


def control_address(server: ServerSettings, host: str = LOOPBACK) -> str:
    """Where runs are submitted and nodes registered: on the server machine only."""
    return f"{host}:{server.control_port}"


def admission_list(registry: Registry, server: ServerSettings, leaf: str = "") -> str:
    """``nodes.json``: the keys that the SuperLink must know, those that it must not, and what runs
    hold the devices to (``server_app/clients/bindings.py``).

    Parameters
    ----------
    server: how the SuperLink is reached.
    leaf: whose it is; empty for the server's.
    """
    said = {name: node.settings for name, node in registry.nodes.items()}
    content = {
        "control": control_address(server),
        "admitted": {
            name: node.public_key
            for name, node in registry.nodes.items()
            if node.settings.behind == leaf
        },
        "bound": {
            name: {
                "role": "leaf" if node.leaf else node.role,
                "leaf": node.behind,
                "clients": node.clients,
                "most_images": node.most_images,
            }
            for name, node in said.items()
        },
        "revoked": {record.public_key: record.name for record in registry.revoked},
    }
    return json.dumps(content, indent=2) + "\n"


def server_kit(
    registry: Registry, *, ca: bytes, certificate: bytes, key: bytes, secret: bytes
) -> Kit:
    """All files of the server's kit.

    Parameters
    ----------
    ca, certificate: PEM certificates of the authority and the server.
    key: the server's private key, PEM.
    secret: 48 random bytes that SuperLink and executor share.
    """
    state = state_folder(NAME)
    variables = environment(NAME) | LOOKS
    # Said in full: a container's working and home folders go with the container.
    places = {"AUGFLOWER_RUNS": f"{state}/runs", "AUGFLOWER_CACHE": f"{state}/cache"}
    places["AUGFLOWER_NODES"] = f"{config_folder(NAME)}/nodes.json"
    for_runs = variables | places
    about = {
        "fleet": registry.name,
        "name": NAME,
        "names": registry.server.names,
        "fleet-port": registry.server.fleet_port,
        "control-port": registry.server.control_port,
        "flower": FLOWER,
    }
    ca_file = f"{config_folder(NAME)}/ca.crt"
    connections = {
        name: {"address": control_address(registry.server, host), "root-certificates": ca_file}
        for name, host in (("fleet", LOOPBACK), ("compose", CONTROL))
    }
    flower = {"superlink": {"default": "fleet", **connections}}
    link, executor = superlink_command(registry.server), executor_command(registry.server)
    readme = fill(
        "server.md",
        fleet=registry.name,
        names=", ".join(registry.server.names),
        port=str(registry.server.fleet_port),
        control=control_address(registry.server),
        inside=control_address(registry.server, CONTROL),
        config=config_folder(NAME),
        state=state,
        runs=places["AUGFLOWER_RUNS"],
    )
    texts = {
        "kit.toml": tomli_w.dumps(about),
        "config.toml": tomli_w.dumps(flower),
        SUPERLINK: unit(f"AugFlower server of {registry.name}", NAME, link, variables),
        EXECUTOR: unit(
            f"AugFlower runs of {registry.name}", NAME, executor, for_runs, after=SUPERLINK
        ),
        "compose.yaml": _compose(registry, variables, for_runs),
        "README.md": readme,
    }
    configuration = ["ca.crt", "server.crt", "server.key", "executor.secret"]
    script = install_script(
        NAME,
        units=[SUPERLINK, EXECUTOR],
        files=[*configuration, "nodes.json", "kit.toml", "config.toml"],
    )
    files = {path: KitFile(text.encode()) for path, text in texts.items()}
    for name, node in registry.nodes.items():
        files[f"nodes/{name}.pub"] = KitFile(f"{node.public_key}\n".encode(), SECRET)
    return files | {
        "ca.crt": KitFile(ca),
        "server.crt": KitFile(certificate),
        "server.key": KitFile(key, SECRET),
        "nodes.json": KitFile(admission_list(registry, registry.server).encode(), SECRET),
        "executor.secret": KitFile(secret, SECRET),
        "install.sh": KitFile(script.encode(), PROGRAM),
    }


def _compose(registry: Registry, variables: dict[str, str], for_runs: dict[str, str]) -> str:
    port = registry.server.fleet_port
    common = {
        "user": "${FLEET_USER:-1000:1000}",
        "restart": "unless-stopped",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
    }
    kit = f".:{config_folder(NAME)}:ro"
    listens = ["CMD", "python3", "-IS", "/opt/augflower/healthy.py", f"{LOOPBACK}:{port}"]
    superlink = {
        "image": "augflower-superlink",
        "command": superlink_command(registry.server, CONTROL),
        "environment": variables,
        **common,
        "volumes": [kit, f"superlink-state:{state_folder(NAME)}"],
        "ports": [f"{port}:{port}"],
        "networks": {"fleet": {}, "control": {"aliases": [CONTROL]}},
        "healthcheck": {"test": listens, "interval": "15s", "timeout": "30s"},
    }
    # A network of their own, and not a shared loopback: that would be lost, for the executor, when
    # the SuperLink's container starts again.
    executor = {
        "image": "augflower-server",
        "command": executor_command(registry.server, CONTROL),
        "environment": for_runs,
        **common,
        "volumes": [kit, f"executor-state:{state_folder(NAME)}"],
        "networks": ["control"],
        "depends_on": ["superlink"],
    }
    content = {
        "services": {"superlink": superlink, "executor": executor},
        "networks": {"fleet": {}, "control": {}},
        "volumes": {"superlink-state": {}, "executor-state": {}},
    }
    # Aliases would save a few lines and cost the reader more.
    return yaml.dump(content, Dumper=_Plain, sort_keys=False)


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True
