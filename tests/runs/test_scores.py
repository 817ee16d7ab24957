import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server_app.report import scores
from server_app.runs.record import Run, read_run
from tests.runs.synthetic import write_meta, write_run


def make(folder: Path, lines: list[dict[str, Any]], **settings: Any) -> Run:
    folder.mkdir()
    write_meta(folder, "augfl", True, "finished", 9, 2, 3, settings)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_run(folder)


def evaluated(round: int, after: list[float], examples: list[int] | None = None) -> dict[str, Any]:
    weights = examples or [10] * len(after)
    clients = [
        {"node": "1", "client": str(i), "examples": n, "accuracy_before": 0.1, "accuracy_after": a}
        for i, (a, n) in enumerate(zip(after, weights, strict=True))
    ]
    mean = float(np.average(after, weights=weights))
    evaluation = {"accuracy_before": 0.1, "accuracy_after": mean, "clients": clients}
    return {"round": round, "evaluation": evaluation}


def test_standard_error_of_equal_weights_is_s_over_root_n() -> None:
    values = [0.2, 0.5, 0.9, 0.4]
    expected = np.std(values, ddof=1) / 2
    assert scores.standard_error(values, [7] * 4) == pytest.approx(expected, rel=1e-12)


def test_standard_error_with_weights_by_hand() -> None:
    # shares 3/4 and 1/4, mean 0.75, deviations 0.25 and -0.75: 2/1 * 2 * (3/16)^2
    assert scores.standard_error([1.0, 0.0], [3, 1]) == pytest.approx(2 * 3 / 16, rel=1e-12)


def test_standard_error_needs_two_finite_values() -> None:
    assert math.isnan(scores.standard_error([0.5], [1]))
    assert math.isnan(scores.standard_error([0.5, math.nan], [1, 1]))
    assert scores.standard_error([0.5, math.nan, 0.7], [1, 1, 1]) == pytest.approx(0.1)


def test_difference_is_paired_on_the_same_clients_and_data(tmp_path: Path) -> None:
    base = make(tmp_path / "a", [evaluated(5, [0.2, 0.5, 0.8])])
    run = make(tmp_path / "b", [evaluated(5, [0.3, 0.6, 0.9])])
    found = scores.difference(run, base)
    assert found is not None
    assert found.paired
    assert found.value == pytest.approx(0.1)
    assert found.error == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("after", "settings"), [([0.3, 0.6], {}), ([0.3, 0.6, 0.9], {"data.seed": 5})]
)
def test_difference_is_not_paired_otherwise(
    tmp_path: Path, after: list[float], settings: dict[str, Any]
) -> None:
    base = make(tmp_path / "a", [evaluated(5, [0.2, 0.5, 0.8])])
    run = make(tmp_path / "b", [evaluated(5, after)], **settings)
    found = scores.difference(run, base)
    assert found is not None
    assert not found.paired
    each = [np.std(v, ddof=1) / math.sqrt(len(v)) for v in ([0.2, 0.5, 0.8], after)]
    assert found.error == pytest.approx(math.hypot(*each))
    assert scores.client_pairs(run, base) == {}


def test_best_is_the_earliest_highest_and_last_is_last(tmp_path: Path) -> None:
    run = make(tmp_path / "a", [evaluated(1, [0.5]), evaluated(2, [0.9]), evaluated(3, [0.9, 0.9])])
    best, last = scores.best(run), scores.last(run)
    assert best is not None
    assert last is not None
    assert (best.round, last.round) == (2, 3)
    assert scores.first_round_at(run, 0.6) == 2
    assert scores.first_round_at(run, 0.95) is None


def test_ahead_counts_shared_rounds_of_training(tmp_path: Path) -> None:
    run = make(tmp_path / "a", [evaluated(0, [0.9]), evaluated(1, [0.5]), evaluated(2, [0.9])])
    base = make(tmp_path / "b", [evaluated(0, [0.1]), evaluated(1, [0.5]), evaluated(2, [0.8])])
    assert scores.ahead(run, base) == (1, 2)


def test_divergence_is_a_loss_that_is_no_number_but_not_a_void_round(tmp_path: Path) -> None:
    void = {"round": 3, "replies": 0, "asked": 2, "train": {"loss": None}}
    run = make(tmp_path / "a", [evaluated(0, [0.5]), void])
    assert scores.diverged_at(run) is None
    gone = {"round": 4, "replies": 2, "asked": 2, "train": {"loss": None}}
    assert scores.diverged_at(make(tmp_path / "b", [evaluated(0, [0.5]), void, gone])) == 4


def test_incidents_are_grouped_by_reason(tmp_path: Path) -> None:
    late = {"node": "7", "reason": "deadline"}
    bad = {"node": "8", "field": "increment", "reason": "not finite"}
    run = make(
        tmp_path / "a",
        [
            {"round": 2, "missing": [late, {"node": "9", "reason": "deadline"}]},
            {"round": 5, "missing": [late], "rejected": [bad]},
        ],
    )
    assert scores.incidents(run) == [
        scores.Incident("missing", "deadline", 3, ("7", "9"), (2, 5)),
        scores.Incident("rejected", "increment: not finite", 1, ("8",), (5, 5)),
    ]


def test_totals_are_those_of_the_record(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", rounds=12, loses=0.3)
    run = read_run(folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    down, up = (sum(line[key] for line in lines) for key in ("bytes_down", "bytes_up"))
    assert scores.traffic(run) == (down, up)
    total = sum(value for line in lines for value in line["seconds"].values())
    assert scores.seconds(run) == pytest.approx(total)


def test_spread_needs_two_clients() -> None:
    low, high = scores.spread([[0.0, 1.0], [0.5], [math.nan, 0.2, 0.4]], 10, 90)
    assert low[0] == pytest.approx(0.1)
    assert high[0] == pytest.approx(0.9)
    assert math.isnan(low[1])
    assert low[2] == pytest.approx(0.22)
    assert high[2] == pytest.approx(0.38)


def test_a_rejected_evaluation_is_no_lost_reply_to_a_request_to_train(tmp_path: Path) -> None:
    bad = {"node": "8", "field": "correct", "reason": "too many", "step": "evaluation"}
    both = [bad, bad | {"step": "training"}]
    run = make(tmp_path / "a", [{"round": 1, "asked": 2, "replies": 1, "rejected": both}])
    assert scores.lost(run) == {"rejected": 1}
    kinds = {incident.kind: incident.count for incident in scores.incidents(run)}
    assert kinds == {"rejected": 1, "rejected evaluation": 1}
