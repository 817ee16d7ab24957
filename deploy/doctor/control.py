"""The Control API of a SuperLink, where runs are submitted: whether it is there and is trusted."""

from __future__ import annotations

from pathlib import Path

from deploy.doctor.address import check_reachable, split_address
from deploy.doctor.encryption import check_ca, check_trust
from deploy.doctor.finding import Finding, error, ok
from deploy.doctor.speech import listen

_START = "start it on this machine: systemctl status augflower-superlink, or augflower up --kit"
_PORT = "give the control port (8000 by default), as kit.toml of the server's kit names it"


def check_control(address: str, ca: Path | None, timeout: float = 5.0) -> Finding:
    """Whether runs can be submitted at an address.

    Parameters
    ----------
    ca: PEM file of the fleet's CA; None for plaintext.

    Raises
    ------
    SettingsError: the address is none.
    """
    host, port = split_address(address)
    if ca is not None and (finding := check_ca(ca)).status == "error":
        return finding
    if (finding := check_reachable(host, port, timeout)).status == "error":
        remedy = _START if "refuses" in finding.cause else finding.remedy
        return error("SuperLink", finding.cause, remedy)
    try:
        speech = listen(host, port, timeout)
    except OSError as problem:
        return error("SuperLink", f"the connection broke: {problem}", "see the SuperLink's log")
    if speech.tongue == "grpc":
        return error("SuperLink", f"port {port} is the SuperLink's fleet port", _PORT)
    if speech.encrypted and ca is None:
        return error(
            "SuperLink",
            f"port {port} speaks TLS",
            "give --kit with the server's kit, or --root-certificates, in place of --insecure",
        )
    if ca is not None and not speech.encrypted:
        return error("SuperLink", f"port {port} does not speak TLS", _PORT)
    if ca is not None:
        return check_trust(host, port, ca, speech, timeout)
    return ok("SuperLink", f"port {port} answers")
