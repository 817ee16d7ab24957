"""A SuperNode that goes on after an error of the network, and says how it is.

Flower 1.39 makes a call again where the SuperLink is unavailable, and gives up at any other error:
its loop or its heartbeats end, while the thread of its HTTP server keeps the process alive and
answers ``/health`` with 200. ``recovery`` changes three things inside one SuperNode process: calls
that ended with an error of the moment are made again, ``/health`` answers 503 and the reason while
the SuperLink cannot be reached, and the process ends with its loop or its heartbeats.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from deploy.adaptation import Adaptation

FINGERPRINTS = {
    "grpc_request_response": "2ca8b86b327f4d3eaf40fd91e0156c6384c1f70327e7ad1b7612db53b012713f",
    "make_retry_invoker": "261143c8938e2b35478aae49b6f20311af6cd608d384fbb4ded6e4184ae3836d",
    "wrap_stub": "064e42547e07a6a42d14f7d09d7cb829d497759dd6a8f751bf2a7ba6c918f676",
    "invoke": "14c8260448b85ac5d32fedc3f747dfaf4926d543fecd3ea8b1158317d9c06365",
    "_run": "b176ff96c68dbee2205f25bbb5f60d932e5cdbd057eb84c2a823fcb1a3a03ca0",
    "create_app": "b4828a20c6b92ffb12408872bbb89e3beb4732e678a2b98684c5effd26743659",
    "start_client_internal": "bb3df95a5f63b9849fef3ba5fac74c1d01677207e268c37d6895fb6d14399eff",
}
"""SHA-256 of the source of each function that is adapted or relied upon (flwr 1.39.0)."""

RETRIED = frozenset(
    {
        "ABORTED",
        "CANCELLED",
        "DEADLINE_EXCEEDED",
        "INTERNAL",
        "RESOURCE_EXHAUSTED",
        "UNAVAILABLE",
        "UNKNOWN",
    }
)
"""gRPC's codes for what may be gone at the next try; UNAVAILABLE is Flower's own."""
WITHOUT_END = frozenset({"PullMessages", "SendNodeHeartbeat", "ActivateNode", "RegisterNode"})
ENOUGH = 120.0
"""Seconds of trying after which a call for one message is given up, for the fault may be its."""
TOO_OLD = 90.0
"""Seconds without an answer of the SuperLink after which a node is not well."""
ENDED = 70
"""Exit code of a SuperNode whose heartbeats ended, or whose leave-taking did not."""
_LEAVE = 15.0
_log = logging.getLogger("augflower.node")


class Pulse:
    """When the SuperLink last answered this SuperNode."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._answered: float | None = None
        self._looked = 0.0
        self._at_work = False
        self._error = ""

    def answered(self, call: str, answer: Any) -> None:
        """A call has succeeded; ``answer`` of PullMessages may hold a message."""
        self._answered, self._error = self._clock(), ""
        if call == "PullMessages":
            self._looked, self._at_work = self._answered, bool(answer.messages_list)
        elif call == "ActivateNode":
            self._looked = self._answered

    def failed(self, error: str) -> None:
        """A call has failed, with the reason."""
        self._error = error

    def ailment(self) -> str:
        """Why the node is not well; empty where it is.

        A node with a message in hand does not look for others; its heartbeats go on.
        """
        if self._answered is None:
            return "the SuperLink has not answered yet" + self._because
        ago = self._clock() - (self._answered if self._at_work else self._looked)
        if ago <= TOO_OLD:
            return ""
        return f"the last successful call to the SuperLink is {ago:.0f} s ago" + self._because

    @property
    def _because(self) -> str:
        return f": {self._error}" if self._error else ""


def recovery(online: Callable[[], None]) -> Adaptation:
    """The adaptation of a SuperNode; ``online`` is called when the SuperLink has taken it in."""
    return Adaptation(
        name="recovery",
        loss="an error of the network may end it, and its health check does not see that",
        fingerprints=FINGERPRINTS,
        functions=_functions,
        apply=partial(_apply, online),
    )


def _functions() -> dict[str, Any]:
    from flwr.client.grpc_rere_client import connection
    from flwr.supercore.heartbeat import HeartbeatSender
    from flwr.supercore.retry import grpc_retry, retry_invoker
    from flwr.supernode import main, start_client_internal

    return {
        "grpc_request_response": connection.grpc_request_response,
        "make_retry_invoker": grpc_retry.make_simple_grpc_retry_invoker,
        "wrap_stub": grpc_retry.wrap_stub,
        "invoke": retry_invoker.RetryInvoker.invoke,
        "_run": HeartbeatSender._run,
        "create_app": main.create_app,
        "start_client_internal": start_client_internal.start_client_internal,
    }


def _apply(online: Callable[[], None]) -> None:
    pulse = Pulse()
    _try_again(pulse, online)
    _tell_health(pulse)
    _end_with_the_heartbeats()
    _end_with_the_loop()


def _try_again(pulse: Pulse, online: Callable[[], None]) -> None:
    from flwr.client.grpc_rere_client import connection

    calls = threading.local()

    def wrap_stub(stub: Any, invoker: Any) -> None:
        give_up = invoker.should_giveup

        def should_give_up(error: Any) -> bool:
            code, reason = error.code().name, _reason(error)
            pulse.failed(reason)
            if code not in RETRIED or code == "UNAVAILABLE":
                return bool(give_up(error))
            _log.warning("%s failed with %s", calls.name, reason)
            return calls.name not in WITHOUT_END and time.monotonic() - calls.since > ENOUGH

        def again_and_again(name: str, method: Any) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                calls.name, calls.since = name, time.monotonic()
                answer = invoker.invoke(method, *args, **kwargs)
                pulse.answered(name, answer)
                if name == "ActivateNode":
                    online()
                return answer

            return call

        invoker.should_giveup = should_give_up
        for name, method in list(vars(stub).items()):
            if callable(method):
                setattr(stub, name, again_and_again(name, method))

    module: Any = connection  # it does not export what it imports
    module.wrap_stub = wrap_stub


def _tell_health(pulse: Pulse) -> None:
    from flwr.supernode import main
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    create = main.create_app

    def health(_: Request) -> PlainTextResponse:
        ailment = pulse.ailment()
        return PlainTextResponse(f"{ailment or 'ok'}\n", 503 if ailment else 200)

    def create_app(*args: Any, **kwargs: Any) -> Any:
        app = create(*args, **kwargs)
        app.router.routes.insert(0, Route("/health", health))
        return app

    main.create_app = create_app


def _end_with_the_heartbeats() -> None:
    from flwr.supercore.heartbeat import HeartbeatSender

    run = HeartbeatSender._run

    def _run(self: Any) -> None:
        try:
            run(self)
        except BaseException as error:
            _log.error("the heartbeats of the SuperNode ended: %s", _reason(error))
            # Without them the SuperLink takes the node for gone and asks nothing of it any more.
            leave(ENDED)

    HeartbeatSender._run = _run  # type: ignore[method-assign]


def _end_with_the_loop() -> None:
    from flwr.supernode import start_client_internal as loop

    def ending(step: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            try:
                return step(*args, **kwargs)
            except Exception as error:
                _log.error("the loop of the SuperNode ended: %s", _reason(error))
                # Taking its leave waits for a heartbeat that may be trying without end.
                timer = threading.Timer(_LEAVE, leave, (ENDED,))
                timer.daemon = True
                timer.start()
                raise

        return guarded

    loop._pull_and_store_message = ending(loop._pull_and_store_message)
    loop._push_messages = ending(loop._push_messages)


def leave(code: int) -> None:
    """End this process at once, whatever threads it has."""
    logging.shutdown()
    os._exit(code)


def _reason(error: BaseException) -> str:
    code, details = getattr(error, "code", None), getattr(error, "details", None)
    if callable(code) and callable(details):
        return f"{code().name}: {details()}"
    return f"{type(error).__name__}: {error}"
