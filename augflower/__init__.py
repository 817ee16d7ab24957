"""AugFlower in a program or a notebook: the same code as the command line's.

import augflower

run = augflower.simulate(method="fedavg", clients="digits", rounds=5)
run.metrics                                     # a pandas DataFrame, one row a round
run.clients                                     # one row a client a round
run.plot("accuracy_after")
model = run.model()                             # a torch module
"""

from augflower.run import Run, runs
from augflower.simulation import simulate
from common.data.own import DataSet
from common.errors import AugFlowerError
from server_app.monitoring.callbacks import Callback

open = Run
"""``augflower.open(folder)`` reads a run that was made earlier, by whatever means."""

__all__ = ["AugFlowerError", "Callback", "DataSet", "Run", "open", "runs", "simulate"]
