"""Where the live page is served, and the token that opens it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import SettingsError

SHORTEST_TOKEN = 16
"""Letters; a token that can be guessed opens the page to everybody."""


@dataclass(frozen=True)
class Place:
    """An address and what is asked of those who come there.

    Attributes
    ----------
    host: a name or an address; brackets around IPv6 are taken off.
    port: 0 takes any free one.
    token: empty asks nothing, which only loopback may.
    """

    host: str
    port: int
    token: str = field(default="", repr=False)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_place(
    address: str, token: str, token_file: str, name: str = "AUGFLOWER_WATCH"
) -> Place | None:
    """The place of the page from the server's settings; None where the address is empty.

    Parameters
    ----------
    address: ``host:port``.
    token, token_file: the token itself, or the file that holds it; at most one of them.
    name: of the setting that holds the address.

    Raises
    ------
    SettingsError: the address is none, the token is short or missing, its file unreadable.
    """
    if token and token_file:
        raise SettingsError("set AUGFLOWER_WATCH_TOKEN or AUGFLOWER_WATCH_TOKEN_FILE, not both")
    if not address:
        return None
    host, colon, number = address.strip().rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and number.isascii() and number.isdigit() and int(number) < 1 << 16):
        raise SettingsError(
            f"{name}={address!r} is not an address; write host:port, for example 127.0.0.1:8080"
        )
    place = Place(host, int(number), token.strip() or _read(token_file))
    if not place.token and not place.loopback:
        raise SettingsError(
            f"{name}={address} can be reached from other machines, which needs a token: "
            "name a file that holds one in AUGFLOWER_WATCH_TOKEN_FILE, or use 127.0.0.1 and an "
            "SSH tunnel"
        )
    if place.token and (len(place.token) < SHORTEST_TOKEN or not place.token.isascii()):
        raise SettingsError(
            f"the token of {name} needs at least {SHORTEST_TOKEN} ASCII letters; make one "
            "with: openssl rand -hex 24"
        )
    return place


def _read(token_file: str) -> str:
    if not token_file:
        return ""
    path = Path(token_file).expanduser()
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"AUGFLOWER_WATCH_TOKEN_FILE={token_file} cannot be read: {error}"
        ) from None
    if not token:
        raise SettingsError(f"AUGFLOWER_WATCH_TOKEN_FILE={token_file} is empty")
    return token
