"""The secret of a run: what no device may know, kept with the run so that it goes on the same."""

from __future__ import annotations

import secrets
from pathlib import Path

from common.errors import RunError
from common.files import write_atomic

FILE = ".secret"  # hidden, as a folder with nothing but hidden files is not yet a run
BYTES = 32


def new_secret() -> bytes:
    """A secret of 256 bits."""
    return secrets.token_bytes(BYTES)


def write_secret(folder: Path, secret: bytes) -> None:
    """Keep the secret of a run that begins in ``folder``, readable for its owner alone."""
    write_atomic(folder / FILE, secret.hex(), 0o600)


def read_secret(folder: Path) -> bytes:
    """The secret of the run in ``folder``.

    Raises
    ------
    RunError: it is not there, or is damaged.
    """
    path = folder / FILE
    try:
        secret = bytes.fromhex(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is damaged"
        raise RunError(
            f"the secret of run {folder.name!r}, {path}, cannot be read ({reason}): without it the "
            "run cannot go on as it began; copy it back, hidden files are easily left behind, or "
            "begin a new run"
        ) from None
    if len(secret) != BYTES:
        raise RunError(f"{path} holds {len(secret)} bytes, not {BYTES}: restore it, or begin anew")
    return secret
