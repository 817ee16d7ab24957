"""The socket at which a leaf's node meets who asks its devices."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Client, Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import ConfigRecord, RecordDict

from client_app.relay import relay
from common import leaf as wire
from common.errors import FleetError, SettingsError
from common.tensors import Tensors
from common.wire import pack, to_bytes
from deploy.leaf import Switch

DOWN = pack(wire.Down("token", '{"rounds": 3}', 10, 1, "", 5.0, [], Tensors((), {}), [], ""))
FOUND = RecordDict({"found": ConfigRecord({"it": 7})})


class Part:
    """Stands for Flower's side: a run that is submitted answers at the socket, if it is to."""

    def __init__(self, socket: Path, answers: Callable[[Connection], object] | None) -> None:
        self._socket, self._answers = socket, answers
        self.submitted: list[dict[str, Any]] = []

    def submit(self, app: Path, config: dict[str, Any]) -> int:
        self.submitted.append(config)
        if self._answers is not None:
            threading.Thread(target=self._serve, args=(len(self.submitted),), daemon=True).start()
        return len(self.submitted)

    def status(self, run_id: int) -> Any:
        failed = self._answers is None
        return SimpleNamespace(finished=failed, status="finished", details="no module")

    def _serve(self, run_id: int) -> None:
        assert self._answers is not None
        with Client(str(self._socket), "AF_UNIX") as above:
            above.send_bytes(f"{wire.SERVES} {run_id}".encode())
            self._answers(above)


Meet = Callable[[Callable[[Connection], object] | None], tuple[str, Part]]


@pytest.fixture
def meet(tmp_path: Path) -> Iterator[Meet]:
    switches = []
    with tempfile.TemporaryDirectory() as folder:

        def begin(answers: Callable[[Connection], object] | None) -> tuple[str, Part]:
            socket = Path(folder) / str(len(switches))
            part = Part(socket, answers)
            switches.append(Switch(socket, part, tmp_path, print))  # type: ignore[arg-type]
            return str(socket), part

        yield begin
        for switch in switches:
            switch.close()


def always(above: Connection) -> None:
    while True:
        above.recv_bytes()
        above.send_bytes(wire.FOUND + to_bytes(FOUND))


def once(above: Connection) -> None:
    above.recv_bytes()
    above.send_bytes(wire.FOUND + to_bytes(FOUND))


def test_the_first_question_of_a_run_begins_the_leafs_part_in_it(meet: Meet):
    socket, part = meet(always)
    for _ in range(3):
        assert relay(DOWN, socket)["found"] == FOUND["found"]
    assert part.submitted == [{"rounds": 3}]


def test_a_part_that_was_killed_is_begun_anew(meet: Meet):
    socket, part = meet(once)
    for _ in range(2):
        assert relay(DOWN, socket)["found"] == FOUND["found"]
    assert len(part.submitted) == 2


def test_what_is_wrong_below_is_told_above(meet: Meet):
    socket, _ = meet(lambda above: (above.recv_bytes(), above.send_bytes(wire.FAILED + b"no disk")))
    with pytest.raises(FleetError, match="no disk"):
        relay(DOWN, socket)


def test_a_part_that_ends_in_the_middle_is_told_of(meet: Meet):
    socket, _ = meet(lambda above: above.recv_bytes())
    with pytest.raises(FleetError, match="its part in the run ended"):
        relay(DOWN, socket)


def test_a_part_that_does_not_begin_is_told_of(meet: Meet):
    socket, _ = meet(None)
    with pytest.raises(FleetError, match=r"did not begin .*no module"):
        relay(DOWN, socket)


def test_a_node_that_is_no_leaf_says_so():
    with pytest.raises(SettingsError, match="augflower leaf"):
        relay(DOWN, "")
