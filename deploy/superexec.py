"""The executor of a fleet's server: Flower's SuperExec with its own options, and what is adapted.

``AUGFLOWER_SUPEREXEC_WITHOUT=all`` leaves it as it is.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from common.trouble import is_trouble
from deploy.adaptation import Adaptation, adapt

WITHOUT = "AUGFLOWER_SUPEREXEC_WITHOUT"
FIRST, LONGEST = 0.5, 10.0
"""Seconds of the first pause after an error, and of any at most; each is twice the one before."""
LOOKS = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5"}
"""Of an executor's environment: seconds between two looks for a run, 6 ms of the SuperLink each."""
FINGERPRINTS = {
    "run_superexec": "0cc169d016ac4b3bfe8ddebe9a2ac9a70849828b5e8aaa74e6bda68e1f357fb9",
    "AcquireTask": "f21b3440bebc1206742903b1a321d8e2a22afea8d73f083336f987cf786f53bc",
}
"""SHA-256 of the source of each function that is adapted or relied upon (flwr 1.39.0)."""
_log = logging.getLogger("augflower.superexec")


def _functions() -> dict[str, Any]:
    from flwr.supercore.runtime import RuntimeHttpClient
    from flwr.supercore.superexec.run_superexec import run_superexec

    return {"run_superexec": run_superexec, "AcquireTask": RuntimeHttpClient.AcquireTask}


def _apply() -> None:
    from flwr.supercore.runtime import RuntimeHttpClient

    setattr(RuntimeHttpClient, "AcquireTask", retrying(RuntimeHttpClient.AcquireTask))  # noqa: B010


def retrying(
    acquire: Callable[..., Any], sleep: Callable[[float], None] = time.sleep
) -> Callable[..., Any]:
    """``acquire``, asked again where the SuperLink fails.

    Flower 1.39 asks again after an error of the connection. After any other the executor would end,
    and with it the server's part of the run.
    """

    def asked_again(*arguments: Any) -> Any:
        pause = FIRST
        while True:
            try:
                return acquire(*arguments)
            except Exception as error:
                if not is_trouble(error):
                    raise
                _log.warning("the SuperLink fails, it is asked again in %g s: %s", pause, error)
            sleep(pause)
            pause = min(2 * pause, LONGEST)

    return asked_again


ADAPTATION = Adaptation(
    name="executor",
    loss="one error of the SuperLink ends the executor and the run",
    fingerprints=FINGERPRINTS,
    functions=_functions,
    apply=_apply,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m deploy.superexec``: the options of ``flower-superexec``."""
    if os.environ.get(WITHOUT) != "all":
        adapt([ADAPTATION])
    from flwr.supercore.cli.flower_superexec import flower_superexec

    # Flower reads its options from here, and says them in its help.
    sys.argv = ["flower-superexec", *(sys.argv[1:] if arguments is None else arguments)]
    flower_superexec()


if __name__ == "__main__":
    main()
