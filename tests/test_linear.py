"""The server's work grows with the number of clients, not with its square, whatever the method."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from server_app.method import Source
from tests.made_replies import TRAINED, play, server

FEW, MANY = 100, 1000


def operations(work: Callable[[], object]) -> int:
    """Lines of the server's own code that are executed, those of generators included."""
    count = 0

    def trace(frame: FrameType, event: str, value: object) -> Any:
        nonlocal count
        if "/server_app/" not in frame.f_code.co_filename:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def rounds(name: str, clients: int) -> None:
    """All come, all reply, one in five leaves, the others reply, those that left come back."""
    method, left = server(name, clients), range(clients - clients // 5, clients)
    play(method, range(1, 2), clients)
    method.leave([*left])
    play(method, range(2, 3), clients - len(left))
    play(method, range(3, 4), clients)
    method.leave([*left])
    for client in left:
        method.enrol(client, Source(10 + client))
    play(method, range(4, 5), clients)


def test_a_square_would_be_seen():
    from server_app.validation.outliers import OutlierBound

    def compare(clients: int) -> int:
        return operations(lambda: [OutlierBound() for _ in range(clients) for _ in range(clients)])

    assert compare(40) > 12 * compare(10)


@pytest.mark.parametrize("name", TRAINED)
def test_a_round_is_linear_in_the_clients(name: str):
    few, many = (operations(lambda n=n: rounds(name, n)) for n in (FEW, MANY))
    assert many < 1.2 * MANY / FEW * few
