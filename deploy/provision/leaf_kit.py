"""The kit of a leaf: that of a node to the server above, and of a server to the nodes behind it.

One command runs all of it (``augflower leaf``), and one unit.
"""

from __future__ import annotations

import tomli_w

from deploy.provision.node_kit import superlink_address
from deploy.provision.places import FLOWER, config_folder, environment, state_folder
from deploy.provision.registry import Registry
from deploy.provision.server_kit import admission_list
from deploy.provision.store import PROGRAM, SECRET, Kit, KitFile
from deploy.provision.templates import fill, install_script, unit


def leaf_kit(
    name: str,
    registry: Registry,
    *,
    ca: bytes,
    own: bytes,
    certificate: bytes,
    key: bytes,
    secret: bytes,
) -> Kit:
    """All files of a leaf's kit.

    Parameters
    ----------
    own: the private key by which the server above knows it, OpenSSH.
    ca, certificate: PEM certificates of the authority, and of the leaf as a server.
    key: the private key of that certificate, PEM.
    secret: 48 random bytes that its SuperLink and executor share.
    """
    admitted = registry.nodes[name]
    leaf = admitted.settings.leaf
    assert leaf is not None
    address = superlink_address(registry, admitted.settings)
    about = {
        "fleet": registry.name,
        "name": name,
        "superlink": address,
        "names": leaf.names,
        "fleet-port": leaf.fleet_port,
        "control-port": leaf.control_port,
        "flower": FLOWER,
    }
    service = f"augflower-{name}.service"
    command = ["augflower", "leaf", "--kit", config_folder(name), "--state", state_folder(name)]
    readme = fill(
        "leaf.md",
        name=name,
        fleet=registry.name,
        service=service,
        address=address,
        port=str(leaf.fleet_port),
        names=", ".join(leaf.names),
        config=config_folder(name),
        state=state_folder(name),
    )
    texts = {
        "node.toml": "",
        "kit.toml": tomli_w.dumps(about),
        service: unit(
            f"AugFlower leaf {name} of {registry.name}", name, command, environment(name)
        ),
        "README.md": readme,
    }
    public = ["ca.crt", "server.crt", "node.toml", "kit.toml"]
    configuration = [*public, "server.key", "node.key", "nodes.json", "executor.secret"]
    script = install_script(name, units=[service], files=configuration)
    files = {path: KitFile(text.encode()) for path, text in texts.items()}
    return files | {
        "ca.crt": KitFile(ca),
        "server.crt": KitFile(certificate),
        "server.key": KitFile(key, SECRET),
        "node.key": KitFile(own, SECRET),
        "node.pub": KitFile(f"{admitted.public_key}\n".encode(), SECRET),
        "nodes.json": KitFile(admission_list(registry, leaf, name).encode(), SECRET),
        "executor.secret": KitFile(secret, SECRET),
        "install.sh": KitFile(script.encode(), PROGRAM),
    }
