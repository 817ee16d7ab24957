"""FedAvg, the server's half (McMahan et al., 2017): average by data size."""

from common.methods.fedavg import Down, Up
from common.sgd import LocalSgd
from server_app.families.averaging import Averaging
from server_app.method import MethodSettings


class Settings(MethodSettings):
    """Local SGD."""

    sgd: LocalSgd = LocalSgd(epochs=5, batch_size=10)


class Server(Averaging):
    """theta <- sum_i n_i theta_i / sum_i n_i."""

    down, up = Down, Up
