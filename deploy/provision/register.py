"""Bring a running SuperLink in line with the fleet's list of keys.

The list (``nodes.json``) travels in the server's kit; the SuperLink's own database is what counts
at run time. Both are compared by public key, so that the call may be repeated at will. It talks
to the Control API with Flower's own client, which the ``flwr`` command uses too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    RegisterNodeRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import FlowerError
from flwr.supercore.interceptors.http import RuntimeVersionHttpInterceptor

from common.errors import FleetError
from deploy.provision.keys import public_pem

UNREGISTERED = "unregistered"


@dataclass
class Registration:
    """What a call changed in the SuperLink."""

    registered: dict[str, int] = field(default_factory=dict)  # node -> the id it got
    unregistered: list[tuple[str, int]] = field(default_factory=list)  # node, the id it had
    unchanged: dict[str, int] = field(default_factory=dict)  # node -> its id
    unknown: list[int] = field(default_factory=list)  # ids whose keys the list does not name
    refused: list[str] = field(default_factory=list)  # nodes that need a new key first


def register(folder: Path, control: str | None = None, *, dry: bool = False) -> Registration:
    """Register the admitted keys of a fleet and unregister the revoked ones.

    Parameters
    ----------
    folder: a fleet's folder, or the server's kit.
    control: address of the Control API; ``None`` takes the list's own, on loopback.
    dry: only say what would change; a node that would be registered gets the id 0.

    Raises
    ------
    FleetError: no list in ``folder``, or the SuperLink cannot be reached or refuses.
    """
    kit = folder / "server" if (folder / "server").is_dir() else folder
    try:
        wanted = json.loads((kit / "nodes.json").read_text(encoding="utf-8"))
        ca = (kit / "ca.crt").read_bytes()
        admitted = {public_pem(line): name for name, line in wanted["admitted"].items()}
        revoked = {public_pem(line): name for line, name in wanted["revoked"].items()}
        address = control or wanted["control"]
    except OSError as error:
        raise FleetError(
            f"{error.filename} cannot be read ({error.strerror}): give the fleet's folder or the "
            "server's kit"
        ) from None
    except (ValueError, KeyError, AttributeError, UnsupportedAlgorithm) as error:
        raise FleetError(
            f"{kit / 'nodes.json'} is damaged ({error!r}): provision the fleet again"
        ) from None
    try:
        client = ControlHttpClient.from_server_address(
            server_address=address,
            insecure=False,
            root_certificates=ca,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )
    except (OSError, ValueError) as error:
        raise FleetError(
            f"no connection to {address} can be made with {kit / 'ca.crt'} ({error}): bring the "
            "server's kit here again"
        ) from None
    try:
        return _align(client, admitted, revoked, dry)
    except httpx.HTTPStatusError as error:
        known = FlowerError.from_json(error.response.text)
        reason = known.message if known else f"HTTP {error.response.status_code}"
        raise FleetError(f"the SuperLink at {address} refused: {reason}") from None
    except httpx.HTTPError as error:
        raise FleetError(
            f"no SuperLink answers at {address} ({error}): run this on the server, while it is up"
        ) from None
    finally:
        client.close()


def _align(
    client: ControlHttpClient, admitted: dict[bytes, str], revoked: dict[bytes, str], dry: bool
) -> Registration:
    result, seen = Registration(), set()
    for node in client.ListNodes(ListNodesRequest()).nodes_info:
        key = node.public_key
        seen.add(key)
        live = node.status != UNREGISTERED
        if key in admitted and live:
            result.unchanged[admitted[key]] = node.node_id
        elif key in admitted:
            # The SuperLink never takes a key twice, not even after it was unregistered.
            result.refused.append(admitted[key])
        elif key in revoked and live:
            if not dry:
                client.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))
            result.unregistered.append((revoked[key], node.node_id))
        elif live:
            result.unknown.append(node.node_id)
    for key, name in admitted.items():
        if key in seen:
            continue
        request = RegisterNodeRequest(public_key=key, name=name)
        result.registered[name] = 0 if dry else client.RegisterNode(request).node_id
    return result
