"""What a device is told of a run's settings: those that devices read.

Flower answers a device that asks for a run (GetRun) with all settings that the run was submitted
with. Those of the server's own work, such as how it uses the private model and how many images it
has, tell of what is the server's alone. For what it is not sent a device takes the defaults of the
app, which it has anyway; the server's half of the run gets its settings by another way, whole.
"""

from __future__ import annotations

from typing import Any

from common.config import for_devices
from deploy.adaptation import Adaptation

FINGERPRINTS = {
    "GetRun": "defa2cc4b6a7e11af54c87ca85d52fe9329d40c2f7531aaff6169b699d828b05",
    "get_run": "e533f31728648f574d11ac0f6df2cbe0a5cdea39bc99ecadcaf7fa38951333e6",
}
"""SHA-256 of the source of each function that is adapted or relied upon (flwr 1.39.0)."""


def _functions() -> dict[str, Any]:
    from flwr.server.superlink.fleet.grpc_rere.fleet_servicer import FleetServicer
    from flwr.server.superlink.fleet.message_handler import message_handler

    return {"GetRun": FleetServicer.GetRun, "get_run": message_handler.get_run}


def _apply() -> None:
    from flwr.common.serde import user_config_from_proto
    from flwr.server.superlink.fleet.message_handler import message_handler

    whole = message_handler.get_run

    def get_run(request: Any, state: Any) -> Any:
        answer = whole(request, state)
        config = answer.run.override_config
        for key in config.keys() - for_devices(user_config_from_proto(config)).keys():
            del config[key]
        return answer

    message_handler.get_run = get_run


ADAPTATION = Adaptation(
    name="settings",
    loss="devices are sent all settings of a run, those of the server's own work among them",
    fingerprints=FINGERPRINTS,
    functions=_functions,
    apply=_apply,
)
