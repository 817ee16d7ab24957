"""What is costly is done rarely enough."""

from __future__ import annotations

import pytest

from server_app.monitoring.throttle import Throttle


@pytest.mark.parametrize(("share", "cost"), [(0.05, 2.0), (0.5, 0.3), (0.1, 40.0)])
def test_it_takes_at_most_its_share(share: float, cost: float) -> None:
    now = spent = 0.0
    throttle = Throttle(share, lambda: now)
    assert throttle.due
    for _ in range(5000):
        now += 0.37
        if throttle.due:
            with throttle.measured():
                now += cost
                spent += cost
    assert spent / now <= share * 1.01 + cost / now
    assert spent / now > share * 0.5


def test_what_fails_has_taken_its_time() -> None:
    now = 10.0
    throttle = Throttle(0.1, lambda: now)

    def fail() -> None:
        nonlocal now
        with throttle.measured():
            now += 1.0
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert not throttle.due
    now += 9.1
    assert throttle.due
