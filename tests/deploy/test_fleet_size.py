"""Fifty devices on a SuperLink with a database: none is lost, and no call fails."""

import pytest

from benchmarks.fake_devices import CHANNELS
from benchmarks.fleet_size import Size, measure


@pytest.mark.deploy
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_device_is_lost_to_a_locked_database():
    # Two real devices beside the fake ones, which make a failed call again, but count it.
    found = measure(Size(devices=50, database=True, rounds=2, real=2))
    assert found.failed == {}
    assert (found.lost, found.missing, found.rejected) == (0, 0, 0)
    assert len(found.logs) == 2
    for log in found.logs:
        assert "SuperNode ID" in log
        assert "ended" not in log
        assert "failed with" not in log
    assert CHANNELS >= 50, "each of them has a connection of its own"


@pytest.mark.deploy
def test_fake_devices_take_part_like_real_ones():
    found = measure(Size(devices=3, rounds=1, real=1))
    assert found.failed == {}
    assert (found.lost, found.missing, found.rejected) == (0, 0, 0)
    assert found.round > 0
    assert found.link > 0
    assert found.calls > 10
