"""The fleet's certificate authority and the server's certificate (X.509, EC P-256, SHA-256)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# A device whose clock is a little slow must not take a new certificate for one of the future.
BACKDATED = timedelta(days=1)
# In containers SuperLink and executor meet on a network of their own, where it has this name.
CONTROL = "control"
OWN_NAMES = ("localhost", "127.0.0.1", "::1", CONTROL)


def new_key() -> bytes:
    """A new private key for the authority or the server, PEM."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def make_authority(key: bytes, name: str, days: int, now: datetime) -> bytes:
    """A self-signed certificate of the fleet's CA, PEM.

    With the same key and name, a newer one vouches for certificates that an older one signed.
    """
    private = _private(key)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} fleet CA")])
    builder = _builder(subject, subject, private.public_key(), now, now + timedelta(days=days))
    for extension, critical in (
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (_usage(key_cert_sign=True, crl_sign=True), True),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(private.public_key()), False),
    ):
        builder = builder.add_extension(extension, critical)
    return builder.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def make_server_certificate(
    ca_key: bytes, ca: bytes, server_key: bytes, names: Iterable[str], days: int, now: datetime
) -> bytes:
    """The server's certificate for ``names``, PEM; it ends no later than its authority."""
    authority, signer = x509.load_pem_x509_certificate(ca), _private(ca_key)
    every = alternative_names(names)
    end = min(now + timedelta(days=days), authority.not_valid_after_utc)
    # RFC 5280 bounds a common name to 64 characters; only the alternative names count anyway.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, every[0][:64])])
    public = _private(server_key).public_key()
    builder = _builder(subject, authority.subject, public, now, end)
    for extension, critical in (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(digital_signature=True), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.SubjectAlternativeName([_general_name(name) for name in every]), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False),
    ):
        builder = builder.add_extension(extension, critical)
    return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def alternative_names(names: Iterable[str]) -> list[str]:
    """The given names, then those of the server for itself, each once."""
    return list(dict.fromkeys([*names, *OWN_NAMES]))


def names_in(certificate: bytes) -> list[str]:
    """DNS names and IP addresses for which a PEM certificate stands."""
    extensions = x509.load_pem_x509_certificate(certificate).extensions
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    kinds = (x509.DNSName, x509.IPAddress)
    return [str(name.value) for name in names if isinstance(name, kinds)]


def expiry(certificate: bytes) -> datetime:
    """When a PEM certificate ends, UTC."""
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc


def belongs_to(certificate: bytes, key: bytes) -> bool:
    """Whether a PEM certificate is of this private key."""
    return x509.load_pem_x509_certificate(certificate).public_key() == _private(key).public_key()


def signed_by(certificate: bytes, ca: bytes) -> bool:
    """Whether the CA's key signed a PEM certificate; validity in time is another question."""
    try:
        x509.load_pem_x509_certificate(certificate).verify_directly_issued_by(
            x509.load_pem_x509_certificate(ca)
        )
    except Exception:
        # cryptography raises ValueError, TypeError or InvalidSignature, each of them a "no".
        return False
    return True


def utc_now() -> datetime:
    """Now, in whole seconds, as certificates count."""
    return datetime.now(UTC).replace(microsecond=0)


def _private(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not a key on an elliptic curve")
    return key


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    now: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(**uses: bool) -> x509.KeyUsage:
    every = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement "
        "key_cert_sign crl_sign encipher_only decipher_only"
    )
    return x509.KeyUsage(**{use: uses.get(use, False) for use in every.split()})
