"""Node keys: EC P-384 in OpenSSH's format, as Flower's SuperNode loads them."""

from __future__ import annotations

import base64
import hashlib

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from common.errors import FleetError


def new_private_key() -> bytes:
    """A new private key, OpenSSH text without a passphrase."""
    return ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )


def load_private_key(text: bytes, where: str) -> ec.EllipticCurvePrivateKey:
    """Read a private key.

    Raises
    ------
    FleetError: not an unencrypted OpenSSH key on an elliptic curve.
    """
    try:
        key = serialization.load_ssh_private_key(text, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise FleetError(
            f"{where} is not an unencrypted OpenSSH private key ({error}); renew the node"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise FleetError(f"{where} is not on an elliptic curve, as Flower asks; renew the node")
    return key


def public_line(private: bytes, where: str) -> str:
    """The public half of a private key as one OpenSSH line."""
    public = load_private_key(private, where).public_key()
    return public.public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    ).decode()


def public_pem(line: str) -> bytes:
    """An OpenSSH public key line as the PEM by which a SuperLink knows the node."""
    return serialization.load_ssh_public_key(line.encode()).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def fingerprint(line: str) -> str:
    """SHA-256 fingerprint of a public key line, as ``ssh-keygen -l`` prints it."""
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
