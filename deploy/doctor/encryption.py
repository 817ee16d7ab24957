"""TLS between device and server: the same on both sides, the right CA, name and time."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from deploy.doctor.address import TIMEOUT
from deploy.doctor.finding import Finding, error, ok, warning
from deploy.doctor.speech import Speech, listen
from deploy.provision.certificates import names_in
from deploy.provision.loopback import is_loopback

SOON = timedelta(days=30)
# OpenSSL's verification results (x509_vfy.h).
NOT_YET, EXPIRED, WRONG_NAMES = {9}, {10}, {62, 64}
RENEW = "on the provisioning machine: augflower provision renew; then deliver the kit and restart"


def check_ca(path: Path, now: datetime | None = None) -> Finding:
    """Whether the CA's certificate of a kit is there, is one, and is valid now."""
    now = now or datetime.now(UTC)
    remedy = "copy ca.crt from the node's kit"
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as problem:
        return error("CA certificate", f"{path} cannot be read: {problem.strerror}", remedy)
    except ValueError:
        return error("CA certificate", f"{path} is not a PEM certificate", remedy)
    subject, end = certificate.subject.rfc4514_string(), certificate.not_valid_after_utc
    if now > end:
        return error(
            "CA certificate",
            f"by this clock ({now:%Y-%m-%d}) {subject} ended on {end:%Y-%m-%d}",
            f"if the clock is wrong, set it (NTP); else {RENEW}",
        )
    if now < certificate.not_valid_before_utc:
        return error("CA certificate", _too_early(certificate, now), _CLOCK)
    if now > end - SOON:
        return warning("CA certificate", f"{subject} ends on {end:%Y-%m-%d}", RENEW)
    return ok("CA certificate", f"{subject}, until {end:%Y-%m-%d}")


def check_encryption(
    host: str, port: int, ca: Path | None, *, insecure: bool = False, timeout: float = TIMEOUT
) -> Finding:
    """Shake hands with the server as the node will.

    Parameters
    ----------
    ca: PEM file of the fleet's CA; ``None`` trusts the system's authorities, as Flower does.
    insecure: the node is configured for plaintext.
    """
    try:
        speech = listen(host, port, timeout)
    except OSError as problem:
        return error("TLS", f"the connection broke: {problem}", "check the server's log")
    if insecure:
        return _plaintext(host, speech)
    if not speech.encrypted:
        return _unencrypted(port, speech)
    if speech.tongue != "grpc":
        return _not_grpc(port)
    return check_trust(host, port, ca, speech, timeout)


def check_trust(
    host: str, port: int, ca: Path | None, speech: Speech, timeout: float = TIMEOUT
) -> Finding:
    """Whether the certificate that a server has shown is trusted, in its names and times too.

    Parameters
    ----------
    ca: PEM file of the fleet's CA; ``None`` trusts the system's authorities.
    speech: what the port answered when it was greeted.
    """
    try:
        context = ssl.create_default_context(cafile=str(ca) if ca else None)
    except OSError as problem:
        return error(
            "TLS", f"{ca} cannot be used as the CA's certificate: {problem}", "see CA certificate"
        )
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # gRPC is not strict either
    if speech.tongue == "grpc":
        context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, port), timeout) as connection,
            context.wrap_socket(connection, server_hostname=host),
        ):
            return _good(speech)
    except ssl.SSLCertVerificationError as problem:
        return _refused(host, speech, problem)
    except OSError as problem:
        return error("TLS", f"the handshake failed: {problem}", "check the server's log")


def _plaintext(host: str, speech: Speech) -> Finding:
    if speech.encrypted:
        return error(
            "TLS",
            "the server speaks TLS, but this node is set to plaintext",
            "drop --insecure and give --root-certificates ca.crt from the node's kit",
        )
    if not is_loopback(host):
        return error(
            "TLS",
            f"plaintext to {host}: anybody on the way can read the models and take part",
            "provision the fleet (augflower provision fleet.yaml); --insecure is for loopback",
        )
    return ok("TLS", "plaintext, within this machine only")


def _unencrypted(port: int, speech: Speech) -> Finding:
    if speech.tongue == "grpc":
        return error(
            "TLS",
            "the server speaks plaintext gRPC, but this node expects TLS",
            "start the SuperLink with the server kit's certificates instead of --insecure",
        )
    if speech.tongue == "http":
        return error("TLS", f"port {port} is a plaintext web server, not a fleet", _PORT)
    return error("TLS", f"port {port} speaks neither TLS nor gRPC", _PORT)


def _not_grpc(port: int) -> Finding:
    return error(
        "TLS",
        f"port {port} speaks TLS, but not gRPC: it is the SuperLink's control port, or the server "
        "runs Flower 1.40 or newer",
        _PORT,
    )


def _good(speech: Speech) -> Finding:
    end = x509.load_der_x509_certificate(speech.certificate).not_valid_after_utc
    text = f"TLS, certificate until {end:%Y-%m-%d}"
    soon = end - datetime.now(UTC) < SOON
    return warning("TLS", f"{text}: soon", RENEW) if soon else ok("TLS", text)


def _refused(host: str, speech: Speech, problem: ssl.SSLCertVerificationError) -> Finding:
    certificate = x509.load_der_x509_certificate(speech.certificate)
    if problem.verify_code in EXPIRED:
        return error(
            "TLS",
            f"by this device's clock ({datetime.now(UTC):%Y-%m-%d}) a certificate has ended; the "
            f"server's is valid until {certificate.not_valid_after_utc:%Y-%m-%d}",
            f"if the clock is wrong, set it (NTP); else {RENEW}",
        )
    if problem.verify_code in NOT_YET:
        return error("TLS", _too_early(certificate, datetime.now(UTC)), _CLOCK)
    if problem.verify_code in WRONG_NAMES:
        pem = certificate.public_bytes(Encoding.PEM)
        return error(
            "TLS",
            f"the server's certificate is for {', '.join(names_in(pem)) or 'no name'}, not {host}",
            f"use one of these names in the kit, or add {host} to server.names in fleet.yaml and "
            "provision again",
        )
    return error(
        "TLS",
        f"the server's certificate is from another authority "
        f"({certificate.issuer.rfc4514_string()}): {problem.verify_message}",
        "copy ca.crt from the kit of this fleet; if it is, somebody else answers at this address",
    )


def _too_early(certificate: x509.Certificate, now: datetime) -> str:
    start = certificate.not_valid_before_utc
    return (
        f"a certificate is valid from {start:%Y-%m-%d %H:%M}; this clock says {now:%Y-%m-%d %H:%M}"
    )


_CLOCK = "set the clock: timedatectl set-ntp true; a Pi has no battery for its own"
_PORT = "give the SuperLink's fleet port (9092 by default), and Flower 1.39 on both sides"
