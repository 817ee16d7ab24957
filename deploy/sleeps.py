"""Waits that grow with the time already waited, and what of Flower is adapted to use them.

A SuperNode of Flower 1.39 asks for work every 3 s and looks for a finished reply every 0.5 s,
whatever happens; it learns only after a minute that a ClientApp was killed; and where a run ends
while its message is on the way, it sends that message's reply instead of the next one's.
``quicken_supernode`` changes five things inside one SuperNode process: both waits become a
``PollInterval``, unless the SuperLink says how long to wait for messages; the executor is told at
once that a message has come, a ClientApp's end without a reply is answered at once with Flower's
own error for a crash, messages of runs that have ended are forgotten, and parts of messages are
asked for sooner. It is meant only for functions that are, letter for letter, those it was written
for, which ``differences`` tells."""

from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

from common.backoff import shorten_backoff
from deploy.adaptation import changed
from deploy.fleet_calls import Advice

FINGERPRINTS = {
    "start_client_internal": "bb3df95a5f63b9849fef3ba5fac74c1d01677207e268c37d6895fb6d14399eff",
    "_push_messages": "5f09f2f7a86ced070a9cb343920c8e3ba0c20fda956e7b6d2088965b428f42d2",
    "store_message": "8d38cc83c3fb7d5aae9136064f921209cde1c5c15ccf26a4e74333d74bf12ac6",
    "get_messages": "337c6ecb6ac9b4817bd136ddc9fd0ac9243599ac3f500e071ec38164255cffc9",
    "finish_task": "6800803a9677cd3df6f8d04e589fe18b2f83bd43780e89623643154e401f67f3",
    "_store_error_replies": "3af03090bfae3ea74bcbe5b82b90f77b7853030760ba2f418270604675c9030d",
}
"""SHA-256 of the source of each function that is adapted or relied upon (flwr 1.39.0)."""


class PollInterval:
    """How long to rest between two looks: a fixed share of the time since something happened.

    A share of a tenth never lengthens a wait by more than a tenth, and an idle device soon rests
    for ``longest`` seconds at a time.
    """

    def __init__(
        self,
        shortest: float,
        longest: float,
        share: float = 0.1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shortest, self._longest, self._share, self._clock = shortest, longest, share, clock
        self._since = clock()

    def reset(self) -> None:
        """Something happened: look often again."""
        self._since = self._clock()

    def rest(self) -> float:
        """Seconds until the next look."""
        waited = self._clock() - self._since
        return min(max(self._shortest, self._share * waited), self._longest)


def _adapted() -> dict[str, Any]:
    from flwr.supernode import start_client_internal as loop
    from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

    return {
        "start_client_internal": loop.start_client_internal,
        "_push_messages": loop._push_messages,
        "store_message": InMemoryNodeState.store_message,
        "get_messages": InMemoryNodeState.get_messages,
        "finish_task": InMemoryNodeState.finish_task,
        "_store_error_replies": InMemoryNodeState._store_error_replies,
    }


def differences() -> list[str]:
    """Names of the functions whose source is not the one that the adaptation was written for."""
    return changed(_adapted(), FINGERPRINTS)


def quicken_supernode(bell: Connection, advice: Advice) -> None:
    """Adapt the SuperNode of this process, which runs nothing else, before it starts.

    Only where ``differences`` finds none.

    Parameters
    ----------
    bell: is rung for each message that comes in.
    advice: what the SuperLink says of when to ask for messages again.
    """
    shorten_backoff()
    _shorten_waits(advice)
    _forget_abandoned_messages()
    _ring_for_messages(bell)
    _answer_for_the_dead()


def _forget_abandoned_messages() -> None:
    """A SuperNode has one message at a time; what is left of others when it comes is abandoned.

    It is of a run that ended while the message was fetched. Its task fails later, and Flower would
    then send an error for it and leave the reply to the present message where it is, until the
    next one comes.
    """
    from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

    store = InMemoryNodeState.store_message

    def store_message(self: Any, message: Any) -> str | None:
        if not message.metadata.reply_to_message_id:
            self.delete_messages()
        return store(self, message)

    InMemoryNodeState.store_message = store_message  # type: ignore[method-assign]


def _ring_for_messages(bell: Connection) -> None:
    from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

    store = InMemoryNodeState.store_message

    def store_message(self: Any, message: Any) -> str | None:
        stored = store(self, message)
        if not message.metadata.reply_to_message_id:
            bell.send_bytes(b"1")
        return stored

    InMemoryNodeState.store_message = store_message  # type: ignore[method-assign]


def _shorten_waits(advice: Advice) -> None:
    from flwr.supernode import start_client_internal as loop

    idle, reply = PollInterval(0.05, 3.0), PollInterval(0.02, 0.5)
    between_looks = 0.5

    def sleep(seconds: float) -> None:
        if seconds > between_looks:
            # No message was there. The wait for a reply, when one comes, starts anew.
            time.sleep(idle.rest() if advice.rest is None else advice.rest)
            reply.reset()
        else:
            # A ClientApp is at work: the next message may follow soon after its reply.
            time.sleep(reply.rest())
            idle.reset()

    # The module uses the name ``time`` for nothing else, which the fingerprints watch over.
    setattr(loop, "time", SimpleNamespace(sleep=sleep))  # noqa: B010 (mypy knows the module)


def _answer_for_the_dead() -> None:
    from flwr.common.constant import SubStatus
    from flwr.supercore.constant import TaskType
    from flwr.supernode.nodestate import in_memory_nodestate as nodestate

    state_class = nodestate.InMemoryNodeState
    finish = state_class.finish_task

    def finish_task(self: Any, task_id: int, sub_status: str, details: str) -> bool:
        finished = finish(self, task_id, sub_status, details)
        if finished and sub_status == SubStatus.FAILED:
            tasks = self.get_tasks(task_ids=[task_id])
            if tasks and tasks[0].type == TaskType.CLIENT_APP:
                # The task may have ended before it fetched its message, and only fetched messages
                # are answered; those that have a reply already are not.
                self.get_messages(run_ids=[tasks[0].run_id], is_reply=False, limit=1)
                self._store_error_replies({tasks[0].run_id}, nodestate.CLIENT_APP_CRASHED_ERROR)
        return finished

    state_class.finish_task = finish_task  # type: ignore[method-assign]
