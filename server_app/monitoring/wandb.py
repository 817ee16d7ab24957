"""Runs in Weights & Biases: settings are its config, figures its history, rounds its steps.

The library's own variables say where: ``WANDB_PROJECT``, ``WANDB_ENTITY``, ``WANDB_MODE``. It is
told figures alone: no console, command line, code, or names and load of the machine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import SettingsError
from server_app.monitoring.callbacks import identity
from server_app.monitoring.scalars import scalars

if TYPE_CHECKING:
    import wandb

PROJECT = "augflower"


class WeightsAndBiases:
    """Tells Weights & Biases of each round once, also where a run goes on.

    Raises
    ------
    SettingsError: nobody is logged in, and it is not to stay offline.
    """

    def __init__(self) -> None:
        import wandb

        self._wandb = wandb
        self._run: wandb.Run | None = None
        online = wandb.setup().settings.mode in {"online", "shared"}
        if online and not wandb.login(prompt=False, verify=False):
            raise SettingsError(
                "the callback wandb: nobody is logged in; say wandb login, set WANDB_API_KEY, or "
                "keep the figures in the run's folder with WANDB_MODE=offline"
            )

    def begin(self, meta: Mapping[str, Any], folder: Path) -> None:
        """Make a run there, or take up the one that this run has made."""
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=meta["run"],
            id=identity(meta),
            resume="allow",
            reinit="create_new",
            dir=str(folder),
            config={**meta["settings"], "versions": meta["versions"]},
            allow_val_change=True,
            settings=self._wandb.Settings(
                console="off", save_code=False, disable_git=True, x_disable_meta=True,
                host="", x_disable_stats=True, x_disable_machine_info=True,
                x_save_requirements=False, quiet=True,
            ),
        )  # fmt: skip

    def round(self, line: Mapping[str, Any]) -> None:
        """Send a round's figures, unless they are there."""
        assert self._run is not None
        if line["round"] >= self._run.step:
            self._run.log(dict(scalars(line)), step=line["round"], commit=True)

    def end(self, how: str) -> None:
        """Note how the run has ended, and send what is left."""
        assert self._run is not None
        self._run.summary["ended"] = how
        self._run.finish(exit_code=0 if how == "finished" else 1)
        self._run = None
