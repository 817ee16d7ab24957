"""What became of a run: said first, and not praised where there is nothing to praise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.errors import DivergedError
from server_app.report import scores, single, verdict, words
from server_app.runs.record import Run, read_run
from tests.runs.synthetic import write_meta

ABSURD = {
    "node": "9", "step": "evaluation", "field": "loss_before", "reason": "is 4 to 2e+23",
}  # fmt: skip


def evaluated(round: int, after: float, loss: float = 1.0, clients: int = 10) -> dict[str, Any]:
    """A round after which each client is right equally often, but for a little."""
    each = [
        {
            "node": "9", "client": str(i), "examples": 20, "accuracy_before": 0.1,
            "accuracy_after": after + 0.01 * (-1) ** i, "loss_before": 2.0, "loss_after": loss,
        }
        for i in range(clients)
    ]  # fmt: skip
    mean = {"accuracy_before": 0.1, "accuracy_after": after, "loss_before": 2.0, "loss_after": loss}
    return {"round": round, "evaluation": {**mean, "std_after": 0.01, "clients": each}}


def trained(round: int, loss: float, **more: Any) -> dict[str, Any]:
    part = {"node": "1", "client": "0", "seconds": 1.0, "examples": 5}
    return {
        "round": round, "asked": 2, "replies": 2, "train": {"loss": loss}, "method": {"rho": 1.0},
        "clients": [{**part, "loss": loss}, {**part, "node": "2", "client": "1", "loss": loss}],
        **more,
    }  # fmt: skip


def made(folder: Path, *lines: dict[str, Any], **meta: Any) -> Run:
    folder.mkdir()
    write_meta(folder, "augfl", True, "finished", 9, 2, 10, {})
    content = json.loads((folder / "run.json").read_text()) | meta
    (folder / "run.json").write_text(json.dumps(content))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_run(folder)


def said(run: Run) -> str:
    return words.headline(run).replace("\u00a0", " ")


def below(run: Run) -> str:
    return " ".join(words.sentences(run)).replace("\u00a0", " ")


def test_the_untrained_models_accuracy_is_never_the_headline(tmp_path: Path) -> None:
    run = made(tmp_path / "a", evaluated(0, 0.818), trained(1, 0.5), trained(2, 0.4))
    assert said(run) == "2 rounds of training, the trained model was never evaluated"
    assert "The untrained model had 81.8 %." in below(run)
    running = made(tmp_path / "b", evaluated(0, 0.818), trained(1, 0.5), status="running")
    assert "81.8" not in said(running)
    failed = made(tmp_path / "c", evaluated(0, 0.818), trained(1, 0.5), status="failed")
    assert said(failed) == "The run failed after 1 round"


def test_a_run_below_its_untrained_model_says_so_first(tmp_path: Path) -> None:
    run = made(tmp_path / "a", evaluated(0, 0.818), evaluated(4, 0.6))
    assert said(run) == (
        "Training made the model worse by 21.8 points: 60.0 % after adaptation on 10 clients that "
        "never took part"
    )
    assert "Adaptation itself makes 60.0 % of 10.0 %." in below(run)
    same = made(tmp_path / "b", evaluated(0, 0.6), evaluated(4, 0.6))
    assert said(same).startswith("Training made no clear difference: 60.0 %")
    better = made(tmp_path / "c", evaluated(0, 0.6), evaluated(4, 0.75))
    assert said(better).endswith("+15.0 points over the untrained model")


def test_a_run_whose_last_evaluation_was_rejected_for_its_loss_diverged(tmp_path: Path) -> None:
    last = {"round": 5, "method": {"transfer_loss": 3.0}, "evaluation": None, "rejected": [ABSURD]}
    run = made(tmp_path / "a", evaluated(0, 0.818), last)
    assert said(run) == "The run diverged in round 5"
    assert "the loss is 4 to 2e+23" in below(run)


def test_one_of_several_clients_cannot_say_that_a_run_diverged(tmp_path: Path) -> None:
    last = evaluated(5, 0.9) | {"rejected": [ABSURD]}
    run = made(tmp_path / "a", evaluated(0, 0.8), last)
    assert verdict.divergence(run) is None
    liar = trained(2, 0.5)
    liar["clients"] += [{**liar["clients"][0], "node": "3", "client": "2", "loss": 1e6}]
    assert verdict.divergence(made(tmp_path / "b", trained(1, 1.0), liar)) is None


@pytest.mark.parametrize("loss", [101.0, 2e23])
def test_a_finite_loss_that_has_exploded_is_divergence(tmp_path: Path, loss: float) -> None:
    run = made(tmp_path / "a", evaluated(0, 0.8), trained(1, 0.7), trained(2, loss))
    assert said(run) == "The run diverged in round 2"
    later = made(tmp_path / "b", evaluated(0, 0.8), evaluated(3, 0.1, loss))
    assert said(later) == "The run diverged in round 3"
    server = [{"round": i, "method": {"transfer_loss": v}} for i, v in ((1, 1.0), (2, loss))]
    assert said(made(tmp_path / "c", *server)) == "The run diverged in round 2"


def test_a_model_that_nobody_evaluated_is_told_from_the_one_before(tmp_path: Path) -> None:
    missing = [{"node": "9", "reason": "no reply within 600 s"}]
    last = trained(10, 0.1, evaluation_missing=missing)
    run = made(tmp_path / "a", evaluated(0, 0.5), evaluated(5, 0.9), last)
    assert said(run) == (
        "The model of round 10 was not evaluated; that of round 5 reached 90.0 % on 10 clients "
        "that never took part"
    )


def test_best_and_last_are_told_apart(tmp_path: Path) -> None:
    run = made(tmp_path / "a", evaluated(0, 0.5), evaluated(5, 0.9), evaluated(9, 0.8))
    assert said(run).startswith("80.0 %")
    assert "The best evaluation was 90.0 % in round 5, the last 80.0 % in round 9." in below(run)


def test_what_befell_a_run_is_told(tmp_path: Path) -> None:
    rejected = [{"node": "1", "field": "increment", "reason": "size 3", "step": "training"}]
    lines = [
        evaluated(0, 0.5), trained(1, 0.9), trained(2, 0.9, method={"fell_back": 1.0}),
        trained(3, 0.9, method={}, train={}, replies=0), trained(4, 0.8, rejected=rejected),
        evaluated(5, 0.9),
    ]  # fmt: skip
    run = made(tmp_path / "a", *lines, resumed_after=[2, 4])
    (table,) = next(s.tables for s in single.sections_of(run) if s.key == "events")
    assert table.rows == [
        ["Resumed", "2", "2, 4"],
        ["Fell back", "1", "2"],
        ["No update", "1", "3"],
        ["Replies rejected", "1", "4"],
    ]


PLAIN = {"knowledge.kl": 0.0, "knowledge.crd": 0.0, "knowledge.cross-entropy": 1.0}


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("transfer", {"transfer.rate": 1.0, "transfer.steps": 50, "rounds": 8}),
        ("transfer", {"transfer.rate": 0.9, "transfer.steps": 200, "rounds": 8}),
        ("fedavg", {"fedavg.sgd.lr": 10.0, "rounds": 12, "round.quorum": 0.1}),
    ],
)
def test_a_diverged_run_ends_with_an_error(
    method: str, settings: dict[str, Any], small_run: Callable[..., Path], tmp_path: Path
) -> None:
    notices: list[str] = []
    with pytest.raises(DivergedError, match="diverge"):
        small_run(method, {**PLAIN, **settings, "run-name": "gone"}, notice=notices.append)
    meta = json.loads((tmp_path / "gone" / "run.json").read_text())
    assert meta["status"] == "failed"
    run = read_run(tmp_path / "gone")
    assert meta["diverged"] == verdict.divergence(run).round  # type: ignore[union-attr]
    start = scores.score(*run.evaluated[0]).after
    assert notices[-1].startswith(f"The run diverged in round {meta['diverged']}")
    assert f"{100 * start:.1f} %" not in notices[-1]
