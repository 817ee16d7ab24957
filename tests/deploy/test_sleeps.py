import time

import pytest
from flwr.app import RecordDict
from flwr.app.message.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import SubStatus
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.object_store.object_store_factory import ObjectStoreFactory
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

from common.backoff import shorten_backoff
from deploy.sleeps import (
    PollInterval,
    _answer_for_the_dead,
    _forget_abandoned_messages,
    differences,
)


def test_flower_is_the_one_that_the_adaptation_was_written_for():
    # Fails when Flower's source changes. Read the functions again before renewing FINGERPRINTS.
    assert differences() == []


def test_differences_names_a_changed_function(monkeypatch):
    from flwr.supernode import start_client_internal as loop

    def _push_messages():
        """Another body."""

    monkeypatch.setattr(loop, "_push_messages", _push_messages)
    assert differences() == ["_push_messages"]


def test_an_interval_is_a_tenth_of_the_time_waited_within_its_bounds():
    now = [0.0]
    interval = PollInterval(0.05, 3.0, clock=lambda: now[0])
    assert interval.rest() == 0.05
    now[0] = 2.0
    assert interval.rest() == pytest.approx(0.2)
    now[0] = 100.0
    assert interval.rest() == 3.0
    interval.reset()
    assert interval.rest() == 0.05


def test_a_part_that_is_late_is_asked_for_again_soon():
    functions = (
        inflatable_utils.pull_objects,
        inflatable_utils.pull_and_inflate_object_from_tree,
    )
    before = [dict(function.__kwdefaults__) for function in functions]
    answers = [None, None, b"content"]

    def pull(_: str) -> bytes:
        answer = answers.pop(0)
        if answer is None:
            raise inflatable_utils.ObjectUnavailableError("x")
        return answer

    try:
        assert shorten_backoff()
        start = time.monotonic()
        assert inflatable_utils.pull_objects(["x"], pull) == {"x": b"content"}
        assert time.monotonic() - start < 0.5  # Flower's own waits add up to 3 s
    finally:
        for function, defaults in zip(functions, before, strict=True):
            function.__kwdefaults__.update(defaults)


def test_the_reply_to_a_message_whose_run_ended_does_not_stand_in_for_the_next(monkeypatch):
    """A killed server submits its run anew while a device is fetching the old run's message."""
    for name in ("store_message", "finish_task"):  # put back afterwards
        monkeypatch.setattr(InMemoryNodeState, name, getattr(InMemoryNodeState, name))
    _forget_abandoned_messages()
    _answer_for_the_dead()
    state, tasks = InMemoryNodeState(ObjectStoreFactory().store()), []
    for run, name in enumerate(("old", "new"), 1):
        task = state.create_task(task_type=TaskType.CLIENT_APP, run_id=run)
        assert task is not None
        state.claim_task(task)
        state.activate_task(task)
        tasks.append(task)
        metadata = Metadata(run, name, 0, 7, "", "", time.time(), 60.0, "query", 1, 7)
        state.store_message(make_message(metadata, RecordDict()))
        assert [m.metadata.message_id for m in state.get_messages(run_ids=[run])] == [name]
    state.finish_task(tasks[0], SubStatus.FAILED, "it was ended")
    assert list(state.get_messages(is_reply=True)) == []
    state.finish_task(tasks[1], SubStatus.FAILED, "it died")
    (reply,) = state.get_messages(is_reply=True)
    assert reply.metadata.reply_to_message_id == "new"
