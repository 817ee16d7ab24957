"""The record of a run as tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from server_app.runs.record import Round, Run

_EVALUATIONS = (("evaluation", ""), ("evaluation_sources", "sources_"))
_FIGURES = (
    "accuracy_before", "accuracy_after", "loss_before", "loss_after", "std_after", "examples"
)  # fmt: skip


def rounds_of(run: Run) -> pd.DataFrame:
    """One row a round, indexed by ``round``; 0 is before training.

    Columns: ``loss`` (of training), ``accuracy_before``, ``accuracy_after`` (adaptation; by
    targets, shares from 0 to 1), ``loss_before``, ``loss_after``, ``std_after``; the same of
    sources with ``sources_`` before them, where they evaluate; ``asked``, ``replies``, ``missing``,
    ``rejected``; ``seconds``, ``bytes_down``, ``bytes_up``; and what the method records, as
    ``method_NAME``. What was not measured in a round is NaN.
    """
    rows = [_row(line) for line in run.rounds]
    return pd.DataFrame(rows).set_index("round") if rows else pd.DataFrame()


def clients_of(run: Run) -> pd.DataFrame:
    """One row for each part that a client took: training, or evaluating the model.

    Columns: ``round``, ``client``, ``node``, ``role`` ("source" or "target"), ``part``
    ("training" or "evaluation"), ``examples``, ``seconds``, ``loss``, ``accuracy_before``,
    ``accuracy_after``.
    """
    return pd.DataFrame(
        [row for line in run.rounds for row in _parts(line)],
        columns=[
            "round", "client", "node", "role", "part", "examples", "seconds", "loss",
            "accuracy_before", "accuracy_after",
        ],
    )  # fmt: skip


def _row(line: Round) -> dict[str, Any]:
    row: dict[str, Any] = {"round": line.round, "loss": line.train.get("loss", math.nan)}
    for name, prefix in _EVALUATIONS:
        evaluated = getattr(line, name)
        if evaluated is not None:
            row |= {f"{prefix}{figure}": getattr(evaluated, figure) for figure in _FIGURES}
    row |= {"asked": line.asked, "replies": line.replies}
    row |= {"missing": len(line.missing), "rejected": len(line.rejected)}
    row |= {"seconds": sum(line.seconds.values())}
    row |= {"bytes_down": line.bytes_down, "bytes_up": line.bytes_up}
    return row | {f"method_{name}": value for name, value in line.method.items()}


def _parts(line: Round) -> Iterator[Sequence[Any]]:
    for part in line.clients:
        yield (
            line.round, part.client, part.node, "source", "training",
            part.examples, part.seconds, part.loss, math.nan, math.nan,
        )  # fmt: skip
    for name, role in (("evaluation", "target"), ("evaluation_sources", "source")):
        evaluated = getattr(line, name)
        for one in evaluated.clients if evaluated else ():
            yield (
                line.round, one.client, one.node, role, "evaluation", one.examples,
                math.nan, math.nan, one.accuracy_before, one.accuracy_after,
            )  # fmt: skip
