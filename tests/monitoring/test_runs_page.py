"""The page that lists runs: it shows all of a folder, running or over, and only to those it may."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

from deploy.watch.pages import make_app
from server_app.monitoring.watch import Watch
from server_app.place import Place
from server_app.report.write import write_report
from server_app.settings import ServerSettings
from tests.conftest import ROOT
from tests.monitoring.visitor import Visitor
from tests.runs.synthetic import write_run

HERE = Place("127.0.0.1", 0)


def visitor(folder: Path, place: Place = HERE) -> Visitor:
    return Visitor(make_app(folder, place), "127.0.0.1")


def note(folder: Path, **more: object) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def test_it_lists_runs_and_shows_their_reports_after_their_end(tmp_path: Path) -> None:
    page = visitor(tmp_path)
    assert "None has begun yet" in page.get("/").text
    write_run(tmp_path / "over")
    (tmp_path / "over" / "report.html").write_text("the report")
    write_run(tmp_path / "on & on", status="running")
    note(tmp_path / "on & on", page="http://127.0.0.1:8080/")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "run.json").write_text("{")
    listing = page.get("/").text
    for shown in (
        "3 runs in", "finished", "running", "40 of 40", "13 of 40", "damaged",
        'href="runs/over"', 'href="http://127.0.0.1:8080/"', "on &amp; on",
    ):  # fmt: skip
        assert shown in listing
    assert 'href="runs/on' not in listing, "it has no report yet"
    assert page.get("/runs/over").text == "the report"
    for nowhere in ("/runs/torn", "/runs/none", "/runs/..%2fover"):
        assert page.get(nowhere).status_code == 404


def test_a_report_finds_the_script_that_reports_share(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    write_report([folder], folder / "report.html", tmp_path)
    page = visitor(tmp_path)
    answer = page.get("/runs/a")
    address = re.search(r'<script src="\.\./([^"]+)"', answer.text)
    assert address
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    assert "echarts" in page.get(f"/{address[1]}").text


def test_what_lies_beside_the_folder_is_not_shown(tmp_path: Path) -> None:
    write_run(tmp_path / "outer")
    (tmp_path / "outer" / "report.html").write_text("not for you")
    (tmp_path / "outer" / "runs").mkdir()
    page = visitor(tmp_path / "outer" / "runs")
    for path in ("/runs/..", "/runs/%2e%2e", "/runs/%252e%252e", "/runs/..%2f..%2fouter"):
        assert "not for you" not in page.get(path).text


def test_a_run_that_goes_on_is_read_again_and_a_live_page_goes_with_it(tmp_path: Path) -> None:
    write_run(tmp_path / "a", status="running")
    note(tmp_path / "a", page="http://127.0.0.1:8080/")
    page = visitor(tmp_path)
    assert ">live<" in page.get("/").text
    note(tmp_path / "a", status="failed")
    again = page.get("/").text
    assert "failed" in again
    assert ">live<" not in again


def test_no_name_is_markup_and_no_link_a_script(tmp_path: Path) -> None:
    write_run(tmp_path / "<b>", status="running")
    note(tmp_path / "<b>", page="javascript:alert(1)")
    listing = visitor(tmp_path).get("/").text
    assert "<b>" not in listing
    assert "javascript:" not in listing


def test_who_may_see_it_is_as_for_the_live_page(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    (tmp_path / "a" / "report.html").write_text("the report")
    guarded = visitor(tmp_path, Place("0.0.0.0", 0, "x" * 16))
    assert guarded.get("/").status_code == 401
    assert guarded.get("/runs/a").status_code == 401
    assert guarded.get("/runs/a", {"Authorization": f"Bearer {'x' * 16}"}).text == "the report"
    stranger = Visitor(make_app(tmp_path, HERE), "evil.example")
    assert stranger.get("/").status_code == 403


def test_a_run_notes_where_its_live_page_is(tmp_path: Path, small_run: Callable[..., Path]) -> None:
    server = ServerSettings(runs=tmp_path, cache=tmp_path / "cache", watch=HERE)
    with Watch(server, lambda text: None) as watch:
        folder = small_run("fedavg", {"rounds": 1}, server=server, status=watch.status)
        assert json.loads((folder / "run.json").read_text())["page"] == watch.url != ""


def command(*words: str) -> list[str]:
    return [sys.executable, "-u", "-m", "deploy.cli", "watch", *words]


def test_the_command_serves_until_ctrl_c_and_says_what_is_wrong(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    process = subprocess.Popen(
        command(str(tmp_path), "--listen", "127.0.0.1:0"),
        cwd=ROOT, text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    url = process.stdout.readline().split(" at ")[1].split(",")[0]
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert "1 run in" in answer.read().decode()
    taken = url.removeprefix("http://").strip("/")
    for address, said in ((taken, "cannot be used"), ("0.0.0.0:0", "needs a token"), ("x", "--li")):
        done = subprocess.run(
            command(str(tmp_path), "--listen", address),
            cwd=ROOT, text=True, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert said in done.stderr
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
