"""FedProx, the server's half (Li et al., 2020): FedAvg's average; mu is the devices' business."""

from pydantic import Field

from common.methods.fedprox import Down, Up
from common.sgd import LocalSgd
from server_app.families.averaging import Averaging
from server_app.method import MethodSettings


class Settings(MethodSettings):
    """Local SGD with a proximal term."""

    mu: float = Field(0.01, ge=0, le=100, description="Weight of mu/2 ||theta - theta^t||^2.")
    sgd: LocalSgd = LocalSgd(epochs=5, batch_size=10)


class Server(Averaging):
    """theta <- sum_i n_i theta_i / sum_i n_i."""

    down, up = Down, Up
