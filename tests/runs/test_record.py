import json
import math
from pathlib import Path

import pytest

from common.errors import RunError
from server_app.runs.record import read_run
from tests.runs.synthetic import write_run


def test_reads_back_what_was_written(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "a", rounds=10, every=5, targets=4, sources=3))
    assert run.meta.run == "a"
    assert run.meta.clients == {"sources": 3, "targets": 4}
    assert [r.round for r in run.rounds] == list(range(11))
    assert [r.round for r, _ in run.evaluated] == [0, 5, 10]
    lines = (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert run.rounds[-1].bytes_up == last["bytes_up"]
    assert run.rounds[-1].method == last["method"]
    assert run.rounds[-1].clients[2].loss == last["clients"][2]["loss"]
    assert run.evaluated[-1][1].accuracy_after == last["evaluation"]["accuracy_after"]


@pytest.mark.parametrize("torn", ['{"round": 11, "seconds": {"tr', '{"round": 11', "\x00\x00\x00"])
def test_a_torn_last_line_is_left_out(tmp_path: Path, torn: str) -> None:
    folder = write_run(tmp_path / "a", rounds=10)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(torn)
    assert [r.round for r in read_run(folder).rounds] == list(range(11))


def test_damage_elsewhere_names_the_line(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", rounds=5)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    lines[2] = lines[2][:40]
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 3 .*restore"):
        read_run(folder)


def test_the_later_record_of_a_repeated_round_counts(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", rounds=5)
    again = {"round": 4, "bytes_up": 123}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(again) + "\n")
    run = read_run(folder)
    assert [r.round for r in run.rounds] == [0, 1, 2, 3, 4, 5]
    assert run.rounds[4].bytes_up == 123


def test_null_and_nan_are_read_as_nan(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", rounds=1)
    line = '{"round": 2, "train": {"loss": null}, "method": {"rho": NaN, "other": Infinity}}\n'
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(line)
    record = read_run(folder).rounds[-1]
    assert math.isnan(record.train["loss"])
    assert math.isnan(record.method["rho"])
    assert math.isinf(record.method["other"])


def test_numbers_for_nodes_are_names(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", rounds=1)
    line = {"round": 2, "clients": [{"node": 12, "client": 3}], "new key": 1}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    part = read_run(folder).rounds[-1].clients[0]
    assert (part.node, part.client) == ("12", "3")


def test_a_run_without_metrics_has_no_rounds(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "metrics.jsonl").unlink()
    assert read_run(folder).rounds == ()


def test_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"holds no run: it has no run\.json"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text("[1, 2")
    with pytest.raises(RunError, match="cannot be read as a run"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text('{"run": "x", "method": "m", "status": "odd"}')
    with pytest.raises(RunError, match=r"status: .*'running'"):
        read_run(tmp_path)
