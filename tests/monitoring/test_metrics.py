"""What Prometheus sees, and that the Grafana dashboard and the alerts ask for nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from server_app.monitoring.metrics import make_registry
from server_app.monitoring.status import PHASES, STATES, Status
from tests.monitoring.made import begun, close, line

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
_NAME = re.compile(r"\b(?:augflower|process)_[a-z_]+\b")
_LABEL = re.compile(r'(\w+)\s*(?:=|!=|=~|!~)\s*"')


def scrape(status: Status) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Name of each sample -> its labels and value."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    text = generate_latest(make_registry(status)).decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return found


def value(found: dict[str, list[tuple[dict[str, str], float]]], name: str, **labels: str) -> float:
    """The one sample that has all those labels."""
    [number] = [v for have, v in found[name] if labels.items() <= have.items()]
    return number


def test_before_any_run() -> None:
    found = scrape(Status())
    assert value(found, "augflower_phase", phase="waiting") == 1
    assert value(found, "augflower_rounds_recorded_total") == 0
    assert "augflower_training_loss" not in found


def test_a_run_in_numbers() -> None:
    status = begun()
    close(status, 0, 1, 2)
    found = scrape(status)
    labels, one = found["augflower_run_info"][0]
    assert labels == {"run": "trial", "method": "augfl", "model": "cnn-tiny", "data": "digits"}
    assert one == 1
    assert value(found, "augflower_round") == 2
    assert value(found, "augflower_rounds") == 3
    assert value(found, "augflower_phase", phase="train") == 1
    assert sum(v for _, v in found["augflower_phase"]) == 1
    assert value(found, "augflower_nodes", state="online") == 2
    assert value(found, "augflower_nodes", state="rejected") == 1
    assert value(found, "augflower_rounds_recorded_total") == 3
    assert value(found, "augflower_sent_bytes_total") == 3000
    assert value(found, "augflower_received_bytes_total") == 1500
    assert value(found, "augflower_training_requests_total") == 4
    assert value(found, "augflower_training_replies_total", outcome="admitted") == 3
    assert value(found, "augflower_training_replies_total", outcome="rejected") == 1
    outcomes = sum(v for _, v in found["augflower_training_replies_total"])
    assert outcomes == value(found, "augflower_training_requests_total")
    assert value(found, "augflower_rejections_total", step="training") == 1
    assert value(found, "augflower_rejections_total", step="introduction") == 0
    assert value(found, "augflower_phase_seconds_total", phase="train") == 2
    assert value(found, "augflower_training_loss") == 0.5
    assert value(found, "augflower_accuracy_ratio", adaptation="after") == pytest.approx(0.7)
    assert value(found, "augflower_evaluation_loss", adaptation="before") == 2
    assert value(found, "augflower_method_figure", figure="primal_residual") == 0.5


def test_rejected_evaluations_and_introductions_are_no_replies_to_requests_to_train() -> None:
    status = begun()
    wrong = {"node": "13", "field": "clients", "reason": "are []"}
    rejected = [{**wrong, "step": step} for step in ("evaluation", "introduction")]
    late = [{"node": "12", "reason": "not asked: it is late with train of round 0"}]
    more = {"asked": 1, "replies": 1, "missing": late, "rejected": rejected}
    status.close(line(1) | more)
    found = scrape(status)
    outcomes = dict.fromkeys(("missing", "rejected"), 0.0) | {"admitted": 1.0}
    for outcome, number in outcomes.items():
        assert value(found, "augflower_training_replies_total", outcome=outcome) == number
    for step, number in {"training": 0, "evaluation": 1, "introduction": 1}.items():
        assert value(found, "augflower_rejections_total", step=step) == number


def test_a_figure_that_one_round_lacks_stays() -> None:
    status = begun()
    close(status, 0, 1)
    status.close({"round": 2, "method": {"restarted_duals": 2}, "train": {}, "evaluation": None})
    found = scrape(status)
    assert value(found, "augflower_method_figure", figure="rho") == 0.7
    assert value(found, "augflower_method_figure", figure="restarted_duals") == 2
    assert value(found, "augflower_training_loss") == 1
    assert value(found, "augflower_accuracy_ratio", adaptation="after") == pytest.approx(0.6)


def test_a_second_scrape_counts_nothing_twice() -> None:
    status = begun()
    registry = make_registry(status)
    close(status, 0, 1)
    generate_latest(registry)
    close(status, 2)
    text = generate_latest(registry).decode()
    assert "augflower_rounds_recorded_total 3.0" in text
    assert "augflower_sent_bytes_total 3000.0" in text
    status.begin({"run": "another"}, 5)
    assert "augflower_rounds_recorded_total 0.0" in generate_latest(registry).decode()


def test_names_have_units_help_and_few_labels() -> None:
    status = begun()
    close(status, 1, 2)
    text = generate_latest(make_registry(status)).decode()
    families = [f for f in text_string_to_metric_families(text) if f.name.startswith("augflower_")]
    assert len(families) > 12
    for family in families:
        assert family.documentation.endswith("."), family.name
        assert len(family.samples) <= max(len(PHASES), len(STATES)), family.name
        for sample in family.samples:
            assert {"node", "field", "reason"}.isdisjoint(sample.labels)
    assert "not finite" not in text


def expressions(content: Any) -> list[str]:
    """All queries in a dashboard or in a file of alerts."""
    if isinstance(content, list):
        return [e for item in content for e in expressions(item)]
    if not isinstance(content, dict):
        return []
    own = [v for k, v in content.items() if k in {"expr", "definition"} and isinstance(v, str)]
    return own + [e for item in content.values() for e in expressions(item)]


@pytest.mark.parametrize("name", ["augflower.json", "alerts.yml"])
def test_every_metric_asked_for_is_there(name: str) -> None:
    status = begun()
    close(status, 0, 1, 2)
    found = scrape(status)
    text = (GRAFANA / name).read_text()
    queries = expressions(json.loads(text) if name.endswith("json") else yaml.safe_load(text))
    assert len(queries) >= 4
    labels = {label for samples in found.values() for have, _ in samples for label in have}
    for query in queries:
        names = _NAME.findall(query)
        assert names, query
        assert set(names) <= found.keys(), query
        assert set(_LABEL.findall(query)) <= labels | {"instance"}, query


def test_the_dashboard_has_a_description_and_a_place_for_each_panel() -> None:
    dashboard = json.loads((GRAFANA / "augflower.json").read_text())
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    for i, a in enumerate(places):
        assert a["x"] + a["w"] <= 24
        for b in places[i + 1 :]:
            apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
            assert apart or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
