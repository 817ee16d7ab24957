"""What a check found: a cause and, where something is wrong, its remedy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Status = Literal["ok", "warning", "error", "skipped"]


@dataclass(frozen=True)
class Finding:
    """One result; ``skipped`` means that the check does not apply here or cannot be known."""

    check: str
    status: Status
    cause: str
    remedy: str = ""


def ok(check: str, cause: str) -> Finding:
    """All is well; ``cause`` says what was seen."""
    return Finding(check, "ok", cause)


def skipped(check: str, cause: str) -> Finding:
    """Not applicable, or not to be known from here."""
    return Finding(check, "skipped", cause)


def warning(check: str, cause: str, remedy: str) -> Finding:
    """A run will work, but worse than it could, or not for long."""
    return Finding(check, "warning", cause, remedy)


def error(check: str, cause: str, remedy: str) -> Finding:
    """A run will fail."""
    return Finding(check, "error", cause, remedy)


def exit_code(findings: Sequence[Finding]) -> int:
    """1 when there is an error, else 0."""
    return int(any(finding.status == "error" for finding in findings))


def to_json(findings: Sequence[Finding]) -> str:
    """The findings for a program to read: ``{"healthy": bool, "findings": [...]}``."""
    content = {"healthy": exit_code(findings) == 0, "findings": [asdict(f) for f in findings]}
    return json.dumps(content, indent=2, ensure_ascii=False)
