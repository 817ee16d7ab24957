"""One rate of adaptation: in training, in the tasks of R_h and in the card of the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.config import DataSettings
from common.modelfile import load_model
from common.models import build
from common.models.preprocessing import Preprocessing
from server_app.knowledge import opening as knowledge
from server_app.private.pretrained import PretrainedModel
from server_app.settings import ServerSettings

SmallRun = Callable[..., Path]
WITHOUT = {"augfl.lambda": 0.0}


@pytest.mark.parametrize(
    ("method", "changes", "rate"),
    [
        ("augfl", WITHOUT, 0.05),
        ("augfl", WITHOUT | {"augfl.alpha": 0.3}, 0.3),
        ("per_fedavg", {"per_fedavg.alpha": 0.2, "evaluation.alpha": 0.1}, 0.2),
        ("fml", {"fml.alpha": 0.9}, 0.05),  # a weight of a loss
        ("fml", {"evaluation.alpha": 0.1}, 0.1),
        ("fedavg", {"evaluation.alpha": 0.1}, 0.1),
    ],
)
def test_the_card_names_the_rate_that_the_model_is_trained_for(
    small_run: SmallRun, method: str, changes: dict[str, Any], rate: float
):
    told: list[str] = []
    folder = small_run(method, {"rounds": 0} | changes, notice=told.append)
    assert load_model(folder / "models" / "last.safetensors")[2].alpha == rate
    differs = rate != changes.get("evaluation.alpha", 0.05)
    assert any("adapt at another rate" in text for text in told) is differs


def test_the_tasks_of_the_regularizer_adapt_as_clients_do(
    small_run: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rates: list[float] = []
    shape = knowledge.TaskShape

    def remember(classes: int, support: float, alpha: float) -> knowledge.TaskShape:
        rates.append(alpha)
        return shape(classes, support, alpha)

    monkeypatch.setattr(knowledge, "TaskShape", remember)
    module = build("cnn-tiny", classes=10, channels=1, image_size=8)
    digits = Preprocessing(1, 8, (0.3053,), (0.3759,))
    PretrainedModel("cnn-tiny", module, tuple("0123456789"), digits).save(tmp_path / "pm")
    server = ServerSettings(str(tmp_path / "pm"), runs=tmp_path, cache=tmp_path / "cache")
    changes = {"rounds": 0, "knowledge.tasks": 1.0, "augfl.alpha": 0.3}
    small_run("augfl", changes, server=server)
    assert rates == [0.3]


@pytest.mark.parametrize(
    ("partition", "per_client", "classes"),
    [("iid", 2, 10), ("pathological", 3, 3), ("random-pairs", 5, 2)],
)
def test_tasks_have_as_many_classes_as_clients(partition: str, per_client: int, classes: int):
    data = DataSettings.model_validate(
        {
            "partition": partition, "classes-per-client": per_client, "pretrain-images": 0,
            "server-images": 0, "sources": 5, "targets": 5,
        }
    )  # fmt: skip
    assert knowledge._task_classes(data) == classes
