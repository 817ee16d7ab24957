"""A node's key and clock, as the server sees them."""

from __future__ import annotations

import contextlib
import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from common.errors import FleetError
from deploy.doctor.finding import Finding, error, ok, skipped, warning
from deploy.doctor.fleet_api import AHEAD, BEHIND, FleetApi
from deploy.provision.keys import fingerprint, load_private_key, public_line

NTP = "let NTP set the clock: timedatectl set-ntp true; timedatectl status shows whether it does"


def check_key(path: Path) -> Finding:
    """Whether the node's private key is there, is of the right kind, and is private."""
    remedy = "copy node.key from the node's kit, mode 0600, owned by the user that runs the node"
    try:
        text = path.read_bytes()
        mode = stat.S_IMODE(path.stat().st_mode)
        name = fingerprint(public_line(text, str(path)))
    except OSError as problem:
        return error("key", f"{path} cannot be read: {problem.strerror}", remedy)
    except FleetError as problem:
        return error("key", str(problem), remedy)
    if mode & 0o077:
        return warning(
            "key", f"{path} has mode {mode:04o}: other users can read it", f"chmod 600 {path}"
        )
    return ok("key", f"{name}")


def check_identity(
    address: str, key: Path | None, ca: Path | None, *, insecure: bool = False
) -> list[Finding]:
    """Whether the server knows the key, and whether the two clocks agree.

    Nothing changes at the server. Without a readable key the clock is compared all the same.
    """
    private, named = ec.generate_private_key(ec.SECP384R1()), False
    if key is not None:
        with contextlib.suppress(OSError, FleetError):  # check_key says what is wrong with it
            private, named = load_private_key(key.read_bytes(), str(key)), True
    try:
        authority = ca.read_bytes() if ca else None
    except OSError:
        return [skipped("registration", f"{ca} cannot be read")]
    with FleetApi(address, private, authority, insecure=insecure) as api:
        verdict = api.ask()
        if verdict == "no answer":
            return [_silence(api.reply)]
        lead = api.clock_lead()
        if verdict == "wrong time" and lead is not None:
            verdict = api.ask(-lead)
    findings = [_clock(lead)]
    if not named:
        return [*findings, skipped("registration", "no key of this node is given")]
    if verdict == "wrong time":
        return [*findings, skipped("registration", "cannot be known before the clock is right")]
    return [*findings, _registration(known=verdict == "known")]


def _registration(*, known: bool) -> Finding:
    if known:
        return ok("registration", "the server knows this key")
    return error(
        "registration",
        "the server does not know this key, or it was revoked: the node would stop at once",
        "on the server: augflower provision register /etc/augflower/server; if the node's key was "
        "renewed, deliver its new kit; if the node was revoked, its name and key are gone for "
        "good: augflower provision add OTHER-NAME, with its settings, and deliver that kit",
    )


def _clock(lead: float | None) -> Finding:
    if lead is None:
        return error("clock", "this clock and the server's differ by more than two hours", NTP)
    text = f"this clock is {abs(lead):.1f} s {'ahead of' if lead > 0 else 'behind'} the server's"
    if lead >= AHEAD or lead <= -BEHIND:
        return error(
            "clock",
            f"{text}: signatures are refused beyond {AHEAD:.0f} s ahead or {BEHIND:.0f} s behind",
            NTP,
        )
    if lead > AHEAD / 2 or lead < -BEHIND / 2:
        return warning("clock", f"{text}, close to where signatures are refused", NTP)
    return ok("clock", text)


def _silence(reply: str) -> Finding:
    return error(
        "registration",
        f"the server did not answer as Flower 1.39 does: {reply or 'no reply'}",
        "check that the address is the SuperLink's fleet port, and Flower's version on the server",
    )
