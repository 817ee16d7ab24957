"""What the gate says of a reply that may not touch the model."""

from __future__ import annotations


class Rejected(Exception):
    """A reply may not touch the model.

    Attributes
    ----------
    field: what is wrong: a field of the contract, or of the message around it.
    reason: for the operator; nothing of a foreign text longer than a line.
    """

    def __init__(self, field: str, reason: str) -> None:
        self.field = _printable(field, 80)
        self.reason = _printable(reason, 300)
        super().__init__(f"{self.field}: {self.reason}")


def _printable(text: str, length: int) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:length])
