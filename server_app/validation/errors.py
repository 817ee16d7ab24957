"""What the gate says of a reply that may not touch the model."""

from __future__ import annotations

from typing import Literal

Step = Literal["training", "evaluation", "introduction"]
"""What a reply that was rejected was a part of."""


class Rejected(Exception):
    """A reply may not touch the model.

    Attributes
    ----------
    field: what is wrong: a field of the contract, or of the message around it.
    reason: for the operator; nothing of a foreign text longer than a line.
    excessive: whether a number or norm is too large or not finite, as when a run diverges.
    """

    def __init__(self, field: str, reason: str, excessive: bool = False) -> None:
        self.field = printable(field, 80)
        self.reason = printable(reason)
        self.excessive = excessive
        super().__init__(f"{self.field}: {self.reason}")

    def entry(self, node: int, step: Step) -> dict[str, str]:
        """What the record says of it."""
        return {"node": str(node), "step": step, "field": self.field, "reason": self.reason}


def printable(text: str, length: int = 300) -> str:
    """A foreign text as a part of one line: no newlines, no control characters, not too long."""
    return "".join(c if c.isprintable() else "?" for c in text[:length])
