"""Findings as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from deploy.doctor.finding import Finding

STYLES = {"ok": "green", "warning": "yellow", "error": "bold red", "skipped": "dim"}


def findings_table(findings: Sequence[Finding]) -> Table:
    """One row a finding; a remedy stands under its cause."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("check", "status", "finding"):
        table.add_column(title, no_wrap=title != "finding", vertical="top")
    for finding in findings:
        text = Text(finding.cause)
        if finding.remedy:
            text.append(f"\n→ {finding.remedy}", style="italic")
        style = STYLES[finding.status]
        table.add_row(finding.check, Text(finding.status, style=style), text)
    return table


def summary(findings: Sequence[Finding]) -> str:
    """One line: how many errors and warnings."""
    counts = {status: sum(f.status == status for f in findings) for status in ("error", "warning")}
    if not any(counts.values()):
        return "Nothing is wrong."
    return ", ".join(
        f"{count} {status}{'s' * (count != 1)}" for status, count in counts.items() if count
    )
