"""What a port speaks, found out by its first bytes: TLS or not, gRPC or not."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from typing import Literal

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113, section 3.4
EMPTY_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
SETTINGS_FRAME = 4
Tongue = Literal["grpc", "http", "unknown"]


@dataclass(frozen=True)
class Speech:
    """How a port answered."""

    encrypted: bool
    tongue: Tongue
    certificate: bytes = b""  # DER, when encrypted


def listen(host: str, port: int, timeout: float) -> Speech:
    """Greet a port in TLS, without checking its certificate, and else in plaintext HTTP/2.

    Raises
    ------
    OSError: the port cannot be reached.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])  # gRPC's servers insist on it
    with socket.create_connection((host, port), timeout) as connection:
        try:
            with context.wrap_socket(connection, server_hostname=host) as secure:
                certificate = secure.getpeercert(binary_form=True) or b""
                # HTTP/2 over TLS must be agreed on; a plain HTTPS server agrees on nothing.
                tongue: Tongue = "grpc" if secure.selected_alpn_protocol() == "h2" else "http"
                return Speech(True, tongue, certificate)
        except OSError as problem:
            if isinstance(problem, ssl.SSLError) and "ALERT" in (problem.reason or ""):
                # An alert is TLS itself: the server would not agree on terms.
                return Speech(True, "unknown")
    return Speech(False, _plain(host, port, timeout))


def _plain(host: str, port: int, timeout: float) -> Tongue:
    answer = _answer(host, port, timeout, PREFACE + EMPTY_SETTINGS)
    if len(answer) >= 4 and answer[3] == SETTINGS_FRAME and not answer.startswith(b"HTTP"):
        return "grpc"
    if not answer.startswith(b"HTTP"):  # some web servers do not know the preface
        answer = _answer(host, port, timeout, b"HEAD / HTTP/1.0\r\n\r\n")
    return "http" if answer.startswith(b"HTTP") else "unknown"


def _answer(host: str, port: int, timeout: float, greeting: bytes) -> bytes:
    try:
        with socket.create_connection((host, port), timeout) as connection:
            connection.sendall(greeting)
            return connection.recv(9)
    except OSError:
        return b""
