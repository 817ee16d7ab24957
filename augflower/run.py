"""A run that was made: its figures as tables, its model as a module."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import nn

from common.modelfile import Card, load_model
from common.models import register
from deploy.model_file import model_file
from deploy.research.runs import table
from server_app.report.tables import clients_of, rounds_of
from server_app.report.write import write_report
from server_app.runs.record import Meta, read_meta, read_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Run:
    """The folder of a run; tables are read from it anew each time.

    Attributes
    ----------
    folder: everything that the run has left.
    """

    def __init__(self, folder: Path | str) -> None:
        """Look at a run.

        Raises
        ------
        RunError: the folder holds no run, or its record is damaged.
        """
        self.folder = Path(folder)
        read_meta(self.folder)

    @property
    def meta(self) -> Meta:
        """What was run, with what, where, and how it ended."""
        return read_meta(self.folder)

    @property
    def settings(self) -> dict[str, Any]:
        """All public settings by their dotted names."""
        return self.meta.settings

    @property
    def metrics(self) -> pd.DataFrame:
        """One row a round, indexed by ``round``; 0 is before training.

        Columns: ``loss`` (of training), ``accuracy_before``, ``accuracy_after`` (adaptation; by
        targets, shares from 0 to 1), ``loss_before``, ``loss_after``, ``std_after``; the same of
        sources with ``sources_`` before them, where they evaluate; ``asked``, ``replies``,
        ``missing``, ``rejected``; ``seconds``, ``bytes_down``, ``bytes_up``; and what the method
        records, as ``method_NAME``. What was not measured in a round is NaN.
        """
        return rounds_of(read_run(self.folder))

    @property
    def clients(self) -> pd.DataFrame:
        """One row for each part that a client took: training, or evaluating the model.

        Columns: ``round``, ``client``, ``node``, ``role`` ("source" or "target"), ``part``
        ("training" or "evaluation"), ``examples``, ``seconds``, ``loss``, ``accuracy_before``,
        ``accuracy_after``.
        """
        return clients_of(read_run(self.folder))

    def model(self, which: str = "last", like: nn.Module | None = None) -> nn.Module:
        """The trained model, in evaluation mode; takes normalised images, see ``card``.

        Parameters
        ----------
        which: "last", or "best" (the smallest loss of training).
        like: a module of the same architecture, where the run's was no named one and was made in
            another process.

        Raises
        ------
        ModelError: there is no such model, or its architecture is not known here.
        """
        path = model_file(self.folder, which)
        if like is not None:
            register(str(self.meta.model["name"]), lambda *_: like)
        model, _, _ = load_model(path)
        return model.module.eval()

    @property
    def card(self) -> Card:
        """How to use the last model: classes, size of images, normalisation, adaptation."""
        return load_model(model_file(self.folder))[2]

    def plot(self, *columns: str, axes: Axes | None = None) -> Axes:
        """Draw columns of ``metrics`` over the rounds, with matplotlib.

        Without ``columns`` the accuracies before and after adaptation, or, without an evaluation,
        the loss. Rounds in which a figure was not measured are bridged.
        """
        figures = self.metrics
        chosen = list(columns) or [
            name for name in ("accuracy_before", "accuracy_after") if name in figures
        ]
        if axes is None:
            from matplotlib import pyplot

            axes = pyplot.figure().add_subplot()
        for name in chosen or ["loss"]:
            line = figures[name].dropna()
            axes.plot(line.index, line.to_numpy(), marker="o", label=f"{self.folder.name} {name}")
        axes.set_xlabel("round")
        axes.legend()
        return axes

    def report(self) -> Path:
        """Write the run's page and return its path.

        Raises
        ------
        RunError: the record is damaged.
        """
        return write_report([self.folder], self.folder / "report.html")

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, {self.meta.method}, {self.meta.status})"


def runs(folder: Path | str = "runs") -> pd.DataFrame:
    """All runs in a folder, one row each, indexed by ``run``; as ``augflower runs`` shows them.

    Raises
    ------
    RunError: there is no such folder.
    """
    rows = table(Path(folder))
    return pd.DataFrame(rows).set_index("run") if rows else pd.DataFrame()
