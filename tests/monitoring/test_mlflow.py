"""MLflow: a run is one of its runs, each figure there once, also after the run went on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server_app.monitoring.callbacks import Follower, named
from server_app.monitoring.status import Status
from server_app.monitoring.watch import Watch
from server_app.settings import ServerSettings
from tests.monitoring.made import META, close

mlflow = pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")


@pytest.fixture(params=["files", "sqlite"])
def client(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    uris = {"files": f"file:{tmp_path}/kept", "sqlite": f"sqlite:///{tmp_path}/kept.db"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uris[request.param])
    return mlflow.MlflowClient()


def kept(client: Any, experiment: str = "augflower") -> list[Any]:
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id]))


def history(client: Any, run: Any, tag: str) -> list[tuple[int, float, int]]:
    points = client.get_metric_history(run.info.run_id, tag)
    return sorted((point.step, point.value, point.timestamp) for point in points)


def tell(tmp_path: Path, rounds: tuple[int, ...], how: str, meta: dict[str, Any] = META) -> None:
    status, notices = Status(), list[str]()
    follower = Follower(named("mlflow"), status, tmp_path, notices.append)
    status.begin(meta, 3)
    close(status, *rounds)
    status.phase(rounds[-1], how)
    follower.close()
    assert notices == []


def test_a_run_that_goes_on_is_one_run_there(client: Any, tmp_path: Path) -> None:
    tell(tmp_path, (0, 1), "stopped")
    [run] = kept(client)
    assert run.info.status == "KILLED"
    again = META | {"settings": META["settings"] | {"rounds": 5}}  # what may differ on a resume
    tell(tmp_path, (0, 1, 2), "finished", again)
    [run] = kept(client)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "trial")
    assert run.data.params == {"rounds": "3", "data.name": "digits", "evaluation.steps": "1"}
    assert run.data.tags["version.augflower"] == "0.1.0"
    assert META["token"] not in str(run.to_dictionary())
    first = 1795234330000  # when round 0 was closed, in milliseconds
    assert history(client, run, "accuracy/after") == [
        (r, pytest.approx(0.5 + 0.1 * r), first + 1000 * r) for r in range(3)
    ]
    assert [step for step, *_ in history(client, run, "method/rho")] == [1, 2]


def test_another_run_of_the_same_name_is_another(client: Any, tmp_path: Path) -> None:
    tell(tmp_path, (0,), "failed")
    tell(tmp_path, (0,), "finished", META | {"token": "another"})
    assert {run.info.status for run in kept(client)} == {"FAILED", "FINISHED"}


def test_an_experiment_of_ones_own(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    tell(tmp_path, (0,), "finished")
    assert len(kept(client, "mine")) == 1


def test_an_experiment_that_a_run_beside_has_just_made(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create_experiment("augflower")
    real, looks = mlflow.MlflowClient.get_experiment_by_name, []

    def late(self: Any, name: str) -> Any:
        looks.append(name)
        return None if len(looks) == 1 else real(self, name)

    with monkeypatch.context() as race:
        race.setattr(mlflow.MlflowClient, "get_experiment_by_name", late)
        tell(tmp_path, (0,), "finished")
    assert len(kept(client)) == 1


def test_a_real_run_and_its_resumption(
    client: Any, tmp_path: Path, small_run: Callable[..., Path]
) -> None:
    server = ServerSettings(runs=tmp_path, callbacks=("mlflow",))
    for rounds, resume in ((2, False), (3, True)):
        config = {"run-name": "real", "rounds": rounds, "resume": resume}
        with Watch(server, print) as watch:
            small_run("fedavg", config, server=server, status=watch.status)
    [run] = kept(client)
    assert run.data.params["method"] == "fedavg"
    assert len(run.data.params) > 100  # more than MLflow takes at once
    assert [step for step, *_ in history(client, run, "accuracy/after")] == [0, 1, 2, 3]


def test_a_server_that_is_not_there_ends_no_run(
    tmp_path: Path, small_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    notices: list[str] = []
    server = ServerSettings(runs=tmp_path, callbacks=("mlflow",))
    with Watch(server, notices.append) as watch:
        folder = small_run("fedavg", server=server, status=watch.status)
    assert (folder / "report.html").exists()
    [notice] = notices
    assert notice.startswith("MLflow is told nothing more, the run goes on:")
