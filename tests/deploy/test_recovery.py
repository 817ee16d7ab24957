"""A node goes on after any error of its SuperLink, and says how it is."""

import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from flwr.client.grpc_rere_client import connection
from flwr.supercore.retry import make_simple_grpc_retry_invoker
from flwr.supercore.run import RunNotRunningException

from deploy.environment import flower_environment
from deploy.fleet import importable
from deploy.node import free_port
from deploy.processes import Process, stop_all
from deploy.recovery import RETRIED, TOO_OLD, Pulse, _try_again, recovery
from tests.deploy.bad_superlink import BadSuperLink

Code = grpc.StatusCode
A_MESSAGE, NOTHING = SimpleNamespace(messages_list=["m"]), SimpleNamespace(messages_list=[])


def test_flower_is_the_one_that_the_adaptation_was_written_for():
    # Fails when Flower's source changes. Read the functions again before renewing FINGERPRINTS.
    adaptation = recovery(lambda: None)
    assert adaptation.differences() == []
    assert adaptation.functions().keys() == adaptation.fingerprints.keys()


def test_health_depends_on_the_last_successful_look_for_messages():
    now = [0.0]
    pulse = Pulse(lambda: now[0])
    assert pulse.ailment() == "the SuperLink has not answered yet"
    pulse.failed("UNAVAILABLE: nobody there")
    assert pulse.ailment().endswith("yet: UNAVAILABLE: nobody there")
    pulse.answered("ActivateNode", None)
    pulse.answered("PullMessages", NOTHING)
    assert pulse.ailment() == ""
    now[0] = TOO_OLD + 1
    pulse.answered("SendNodeHeartbeat", None)  # which go on when the loop has ended
    pulse.failed("INTERNAL: database is locked")
    ago = f"{TOO_OLD + 1:.0f} s ago"
    assert pulse.ailment() == f"the last successful call to the SuperLink is {ago}: " + (
        "INTERNAL: database is locked"
    )
    pulse.answered("PullMessages", NOTHING)
    assert pulse.ailment() == ""


def test_a_node_at_work_is_well_while_its_heartbeats_are_answered():
    now = [0.0]
    pulse = Pulse(lambda: now[0])
    pulse.answered("PullMessages", A_MESSAGE)
    for _ in range(10):
        now[0] += TOO_OLD - 1
        assert pulse.ailment() == ""
        pulse.answered("SendNodeHeartbeat", None)
    now[0] += TOO_OLD + 1
    assert f"{TOO_OLD + 1:.0f} s ago" in pulse.ailment()


class Refusal(grpc.RpcError):
    """An error of gRPC with a code."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "made up"


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Calls of the SuperLink, wrapped as in an adapted SuperNode; they fail with ``stub.code``."""
    monkeypatch.setattr(connection, "wrap_stub", connection.wrap_stub)  # put back afterwards
    stub, calls = SimpleNamespace(code=Code.INTERNAL, tries=0), ("PullMessages", "PushMessages")

    def fail() -> None:
        stub.tries += 1
        raise Refusal(stub.code)

    for name in calls:
        setattr(stub, name, fail)
    _try_again(Pulse(), lambda: None)
    invoker = make_simple_grpc_retry_invoker()
    invoker.wait_function = lambda _: None
    connection.wrap_stub(stub, invoker)
    return stub


def test_a_call_for_one_message_is_given_up_in_the_end(
    stub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
):
    """The fault may be the message's, and the next one is none the worse for it."""
    monkeypatch.setattr("deploy.recovery.ENOUGH", 0.1)
    with pytest.raises(Refusal):
        stub.PushMessages()
    assert stub.tries > 2


def test_errors_for_good_are_not_tried_again(stub: SimpleNamespace):
    stub.code = Code.INVALID_ARGUMENT
    with pytest.raises(Refusal):
        stub.PullMessages()
    assert stub.tries == 1
    stub.code = Code.PERMISSION_DENIED
    with pytest.raises(RunNotRunningException):
        stub.PushMessages()


Start = Callable[[int], tuple[Process, int]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start ``augflower node`` for a port of a SuperLink; the process and its own port."""
    started: list[Process] = []

    def start(superlink: int) -> tuple[Process, int]:
        port = free_port()
        command = [sys.executable, "-m", "deploy.node", "--insecure", "--preload", "json"]
        command += ["--superlink", f"127.0.0.1:{superlink}", "--port", str(port)]
        environment = importable(flower_environment(tmp_path / "flower"))
        process = Process("node", command, environment, tmp_path / "node.log")
        process.start()
        started.append(process)
        return process, port

    yield start
    stop_all(started, 10)


def wait_for(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def health(port: int) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as page:
            return page.status, page.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.deploy
def test_errors_of_the_moment_end_nothing(start: Start):
    with BadSuperLink() as superlink:
        superlink.errors = {
            "ActivateNode": [Code.INTERNAL],
            # Success between them begins the waits, which double, anew.
            "PullMessages": [each for name in sorted(RETRIED) for each in (None, Code[name])],
            "SendNodeHeartbeat": [Code.UNKNOWN],
        }
        process, port = start(superlink.port)
        wait_for(lambda: not superlink.errors["PullMessages"])
        wait_for(lambda: superlink.answered["SendNodeHeartbeat"])
        before = superlink.answered["PullMessages"]
        wait_for(lambda: superlink.answered["PullMessages"] > before)
        assert superlink.answered["ActivateNode"] == 1
        assert health(port) == (200, "ok\n")
        assert "PullMessages failed with INTERNAL: made up" in process.output()
        assert "a new one follows" not in process.output()


@pytest.mark.deploy
@pytest.mark.parametrize("call", ["PullMessages", "SendNodeHeartbeat"])
def test_whatever_ends_a_supernode_another_takes_its_place(call: str, start: Start):
    with BadSuperLink() as superlink:
        superlink.errors = {call: [Code.FAILED_PRECONDITION]}
        process, port = start(superlink.port)
        wait_for(lambda: superlink.answered["ActivateNode"] == 2)
        before = superlink.answered["PullMessages"]
        wait_for(lambda: superlink.answered["PullMessages"] > before + 2)
        assert health(port) == (200, "ok\n")
        assert "FAILED_PRECONDITION: made up" in process.output()
        assert "a new one follows" in process.output()


@pytest.mark.deploy
def test_a_supernode_that_is_killed_is_replaced(start: Start):
    with BadSuperLink() as superlink:
        process, _ = start(superlink.port)
        wait_for(lambda: superlink.answered["PullMessages"])
        _, supernode, *_ = process.pids()
        os.kill(supernode, signal.SIGKILL)
        wait_for(lambda: superlink.answered["ActivateNode"] == 2)
        assert "ended with signal SIGKILL" in process.output()


@pytest.mark.deploy
def test_a_node_that_was_never_taken_in_ends(start: Start):
    with BadSuperLink() as superlink:
        superlink.errors = {"ActivateNode": [Code.FAILED_PRECONDITION]}
        process, _ = start(superlink.port)
        wait_for(lambda: not process.running)
        assert "error: the SuperNode ended with exit code 1" in process.output()


@pytest.mark.deploy
def test_a_node_without_its_superlink_says_so(start: Start):
    process, port = start(free_port())
    wait_for(lambda: "Connection attempt failed" in process.output())
    code, reason = health(port)
    assert code == 503
    assert reason.startswith("the SuperLink has not answered yet: UNAVAILABLE")
    process.ask_to_stop()
    wait_for(lambda: not process.running)
