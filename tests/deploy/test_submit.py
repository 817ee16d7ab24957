"""Following a run: what counts as its words, and how it goes on where it was killed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from common.errors import RunError
from deploy.control import RunStatus
from deploy.submit import RESUMPTIONS, run_on_fleet
from server_app.runs.folder import RunFolder

KILLED = "No heartbeat received from the task"
COMPLETED = ("completed", "")
Ending = tuple[str, str]


class Plan:
    """A control API: the n-th submission says and ends what the n-th entry says."""

    def __init__(self, *runs: tuple[str, Ending]) -> None:
        self.runs = runs
        self.submitted: list[dict[str, Any]] = []

    def submit(self, app: Path, config: Mapping[str, Any]) -> int:
        self.submitted.append(dict(config))
        return 1000 + len(self.submitted)

    def output(self, run_id: int, after: float) -> Iterator[tuple[str, float]]:
        yield self.runs[run_id - 1001][0], after + 1

    def status(self, run_id: int) -> RunStatus:
        return RunStatus(run_id, "finished", *self.runs[run_id - 1001][1])

    @property
    def resumed(self) -> list[bool]:
        return [config.get("resume", False) for config in self.submitted]


def follow(plan: Plan) -> tuple[str, list[str]]:
    shown: list[str] = []
    folder = run_on_fleet(plan, Path("app"), {"run-name": "a"}, shown.append)  # type: ignore[arg-type]
    return folder, shown


def exists(tmp_path: Path, flower_run: int | None) -> Ending:
    """What the server answers where there is a run of that name, made by a run of Flower's."""
    own = {} if flower_run is None else {"flower_run": flower_run}
    RunFolder.create(tmp_path, "a", {"settings": {}, **own}).finish("running")
    with pytest.raises(RunError) as refusal:
        RunFolder.create(tmp_path, "a", {})
    return ("failed", f"ServerApp failed with exception: {refusal.value}")


def test_a_line_that_looks_like_the_folder_s_does_not_move_it():
    plan = Plan(("the run is in /runs/a\nthe run is in /etc/evil\nround 1/1 x\n", COMPLETED))
    folder, shown = follow(plan)
    assert folder == "/runs/a"
    assert shown == ["the run is in /etc/evil", "round 1/1 x"]


def test_only_rounds_that_go_up_let_a_run_be_submitted_again_and_again():
    same = ("the run is in /runs/a\nround 1/9 · 3/3 replies\n", ("failed", KILLED))
    with pytest.raises(RunError, match="go on with: augflower resume /runs/a"):
        follow(plan := Plan(*[same] * 20))
    assert len(plan.submitted) == 2 + RESUMPTIONS

    more = [(f"the run is in /runs/a\nround {n}/9 x\n", ("failed", KILLED)) for n in range(8)]
    assert follow(plan := Plan(*more, ("", COMPLETED)))[0] == "/runs/a"
    assert len(plan.submitted) == 9


def test_a_run_that_was_killed_before_it_began_begins():
    plan = Plan(("", ("failed", KILLED)), ("the run is in /runs/a\n", COMPLETED))
    assert follow(plan)[0] == "/runs/a"
    assert plan.resumed == [False, False]


def test_a_run_that_was_killed_before_it_could_say_where_it_is_goes_on(tmp_path: Path):
    plan = Plan(
        ("", ("failed", KILLED)),
        ("", exists(tmp_path, 1001)),
        ("the run is in /runs/a\n", COMPLETED),
    )
    assert follow(plan)[0] == "/runs/a"
    assert plan.resumed == [False, False, True]


@pytest.mark.parametrize("owner", [None, 1, 100, 10012, 77])
def test_somebody_else_s_run_of_that_name_is_never_gone_on_with(owner: int | None, tmp_path: Path):
    plan = Plan(("", ("failed", KILLED)), ("", exists(tmp_path, owner)), ("", COMPLETED))
    with pytest.raises(RunError, match="run 'a' exists"):
        follow(plan)
    assert plan.resumed == [False, False]


def test_a_run_that_no_executor_takes_is_told_of_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("deploy.submit.TAKEN", 0.3)

    class Waiting(Plan):
        asked = 0

        def status(self, run_id: int) -> RunStatus:
            self.asked += 1
            return (
                RunStatus(run_id, "pending", "", "") if self.asked < 5 else super().status(run_id)
            )

    _, shown = follow(Waiting(("the run is in /runs/a\nround 1/1 x\n", COMPLETED)))
    assert shown[0].startswith("no executor has taken the run in 0 s")
    assert shown[1:] == ["round 1/1 x"]
