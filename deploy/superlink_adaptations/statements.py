"""Statements that are sent to SQLite as they are, within Flower's own transactions.

Flower 1.39 builds each statement anew with SQLAlchemy's expressions, which costs ten times what
SQLite needs for it, and a message there and back is 120 of them. ``objects.py`` and ``messages.py``
write most of these out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def execute(state: Any, statement: str, *values: Any) -> Sequence[Any]:
    """The rows that a statement gives, in the transaction that goes on or in one of its own.

    Parameters
    ----------
    state: Flower's, with a ``session``.
    values: in the order of the statement's question marks.
    """
    with state.session() as session:
        result = session.connection().exec_driver_sql(statement, values)
        return result.all() if result.returns_rows else ()


def execute_each(state: Any, statement: str, values: Sequence[tuple[Any, ...]]) -> None:
    """The same, once for each of some ``values``; there is at least one."""
    with state.session() as session:
        session.connection().exec_driver_sql(statement, list(values))
