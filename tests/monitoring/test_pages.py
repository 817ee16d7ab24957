"""What the live page's server answers, and to whom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from server_app.monitoring import board
from server_app.monitoring.pages import make_app
from server_app.monitoring.status import Status
from server_app.place import Place
from server_app.report.templates import LIBRARY
from tests.monitoring.made import META, REASON, begun, close
from tests.monitoring.visitor import Visitor

TOKEN = "correct-horse-battery"


def client(status: Status, runs: Path, token: str = "", host: str = "127.0.0.1") -> Visitor:
    return Visitor(make_app(status, runs, Place("127.0.0.1", 8080, token)), host)


def test_the_page_tells_what_goes_on(tmp_path: Path) -> None:
    status = begun()
    close(status, 0, 1)
    status.phase(2, "train")
    answer = client(status, tmp_path).get("/")
    assert answer.status_code == 200
    page = answer.text
    assert "<h1>Round 2 of 3</h1>" in page
    assert 'aria-current="step">train' in page
    assert "Client 0" in page
    assert "Clients 2–5" in page
    assert 'aria-valuenow="33"' in page
    assert "Mean over 4\u00a0clients" in page
    assert "the-runs-own-secret" not in page


def test_nothing_comes_from_elsewhere(tmp_path: Path) -> None:
    answer = client(begun(), tmp_path).get("/")
    assert not re.search(r"""(?:src|href|action)\s*=\s*["']?(?:https?:)?//""", answer.text)
    assert "@import" not in answer.text
    assert re.search(r"url\(", answer.text) is None
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'nonce-")
    [nonce] = re.findall(r"'nonce-([\w-]+)'", policy)
    assert answer.text.count(f'<script nonce="{nonce}">') == 1


def test_without_scripts_the_page_reloads_itself(tmp_path: Path) -> None:
    page = client(begun(), tmp_path).get("/").text
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in page
    assert page.count("http-equiv") == 1


def test_what_devices_say_is_text(tmp_path: Path) -> None:
    status = begun()
    status.node(14, "gone", clients='<img src=x onerror="alert(1)">', reason=REASON)
    close(status, 2)
    page = client(status, tmp_path).get("/").text
    assert "<img" not in page
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 2
    assert "increment" in page


def test_only_parts_that_changed_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "CHART_SHARE", 1.0)
    status = begun()
    close(status, 0)
    browser = client(status, tmp_path)
    first = browser.get("/parts").json()
    assert first["order"] == list(first["parts"])
    assert {"head", "nodes", "accuracy", "traffic", "time"} <= first["parts"].keys()
    assert browser.get(f"/parts?since={first['version']}").json()["parts"] == {}
    status.phase(1, "train")
    second = browser.get(f"/parts?since={first['version']}").json()
    assert second["parts"].keys() == {"head"}
    assert second["title"].startswith("1/3")
    status.node(11, "training")
    third = browser.get(f"/parts?since={second['version']}").json()
    assert third["parts"].keys() <= {"head", "nodes"}
    assert "training" in third["parts"]["nodes"]
    close(status, 1)
    fourth = browser.get(f"/parts?since={third['version']}").json()
    assert {"head", "nodes", "accuracy", "losses", "agreement"} <= fourth["parts"].keys()
    assert fourth["server"] == first["server"]


def test_charts_wait_so_that_drawing_them_takes_little_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "CHART_SHARE", 1e-6)
    status = begun()
    close(status, 0, 1)
    browser = client(status, tmp_path)
    first = browser.get("/parts").json()
    close(status, 2)
    later = browser.get(f"/parts?since={first['version']}").json()
    assert later["parts"].keys() == {"head", "nodes", "replies"}
    status.phase(2, "finished")
    end = browser.get(f"/parts?since={later['version']}").json()
    assert {"accuracy", "losses"} <= end["parts"].keys()


@pytest.mark.parametrize("since", ["never", "", "1.5", "9" * 5000, "\u0661"])
def test_a_version_that_is_none_is_refused(since: str, tmp_path: Path) -> None:
    answer = client(begun(), tmp_path).get(f"/parts?since={since}")
    assert answer.status_code == 400
    assert answer.text == "since is a version, a number of at most 18 digits.\n"


def test_a_second_run_takes_the_page_over(tmp_path: Path) -> None:
    status = begun()
    close(status, 0, 1, 2)
    browser = client(status, tmp_path)
    assert "losses" in browser.get("/parts").json()["order"]
    status.begin(META | {"run": "second"}, 9)
    seen = browser.get("/parts").json()
    assert seen["order"] == ["head", "nodes"]
    assert "second" in seen["parts"]["head"]


def test_before_any_run(tmp_path: Path) -> None:
    browser = client(Status(), tmp_path)
    assert "No run has begun yet" in browser.get("/").text
    assert browser.get("/report/").status_code == 404
    assert browser.get("/metrics").status_code == 200


@pytest.mark.parametrize(
    ("phase", "code"), [("waiting", 503), ("train", 200), ("failed", 503), ("finished", 200)]
)
def test_health_and_readiness(tmp_path: Path, phase: str, code: int) -> None:
    status = begun()
    status.phase(1, phase)
    browser = client(status, tmp_path)
    assert browser.get("/healthz").text == "ok\n"
    ready = browser.get("/readyz")
    assert (ready.status_code, ready.text) == (code, f"{phase}\n")


def test_metrics_are_served_as_prometheus_asks(tmp_path: Path) -> None:
    browser = client(begun(), tmp_path)
    plain = browser.get("/metrics")
    assert plain.headers["Content-Type"].startswith("text/plain; version=")
    assert "augflower_rounds 3.0" in plain.text
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    open_metrics = browser.get("/metrics", headers=accept)
    assert open_metrics.headers["Content-Type"].startswith("application/openmetrics-text")
    assert open_metrics.text.endswith("# EOF\n")


def test_the_report_of_the_run(tmp_path: Path) -> None:
    browser = client(begun(), tmp_path)
    assert browser.get("/report/").status_code == 404
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "report.html").write_text("<h1>report</h1>")
    assert browser.get("/report/").text == "<h1>report</h1>"


def test_the_end_says_how_it_ended(tmp_path: Path) -> None:
    status = begun()
    close(status, 0, 1, 2, 3)
    status.phase(3, "finished")
    browser = client(status, tmp_path)
    assert (
        "80.0\u00a0% after adaptation on 4\u00a0clients that never took part"
        in browser.get("/").text
    )
    assert browser.get("/parts").json()["ended"]
    status.phase(3, "failed")
    assert "The run failed after 3\u00a0rounds" in browser.get("/").text


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_without_a_token_this_machine_is_answered(tmp_path: Path, host: str) -> None:
    assert client(begun(), tmp_path, host=host).get("/").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.7"])
def test_without_a_token_no_other_name_is_answered(tmp_path: Path, host: str) -> None:
    browser = client(begun(), tmp_path, host=host)
    for path in ("/", "/parts", "/metrics", "/report/"):
        answer = browser.get(path)
        assert answer.status_code == 403
        assert "trial" not in answer.text
    assert browser.get("/healthz").status_code == 200


@pytest.mark.parametrize("path", ["/", "/parts", "/metrics", "/report/", "/nothing"])
def test_with_a_token_nothing_is_shown_without_it(tmp_path: Path, path: str) -> None:
    browser = client(begun(), tmp_path, TOKEN, host="server.lan")
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
        answer = browser.get(path, headers=headers)
        assert answer.status_code == 401
        assert "trial" not in answer.text
    assert browser.get(f"{path}?token={TOKEN}").status_code == 401
    good = browser.get(path, headers={"Authorization": f"Bearer {TOKEN}"})
    assert good.status_code == (404 if path in {"/report/", "/nothing"} else 200)


def test_health_needs_no_token(tmp_path: Path) -> None:
    browser = client(begun(), tmp_path, TOKEN, host="server.lan")
    assert browser.get("/healthz").status_code == 200
    assert browser.get("/readyz").text == "waiting\n"


def test_the_form_gives_a_cookie_that_is_not_the_token(tmp_path: Path) -> None:
    browser = client(begun(), tmp_path, TOKEN, host="server.lan")
    form = browser.get("/")
    assert 'type="password"' in form.text
    answer = browser.post("/login", data={"token": f" {TOKEN} "})
    assert (answer.status_code, answer.headers["Location"]) == (303, ".")
    cookie = answer.headers["Set-Cookie"]
    assert TOKEN not in cookie
    assert {"HttpOnly", "SameSite=strict"} <= {part.strip() for part in cookie.split(";")}
    assert browser.get("/").status_code == 200
    assert browser.get("/parts").status_code == 200
    other = client(begun(), tmp_path, "another-token-of-length", host="server.lan")
    other.cookies = browser.cookies
    assert other.get("/").status_code == 401


def test_a_wrong_token_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server_app.monitoring.guard._WRONG_TOKEN_DELAY", 0.0)
    browser = client(begun(), tmp_path, TOKEN, host="server.lan")
    answer = browser.post("/login", data={"token": "wrong"})
    assert answer.status_code == 401
    assert "That is not the token" in answer.text
    assert "Set-Cookie" not in answer.headers
    assert browser.post("/login", content=b"token=" + b"a" * 5000).status_code == 413
    assert browser.post("/login", content=b"token=%ff\xff").status_code == 401


def test_only_reading_is_possible(tmp_path: Path) -> None:
    browser = client(begun(), tmp_path)
    for path in ("/", "/parts", "/metrics", "/report/", "/healthz"):
        assert browser.post(path).status_code == 405


def test_charts_mark_what_was_rejected(tmp_path: Path) -> None:
    status = begun()
    close(status, 0, 1, 2)
    page = client(status, tmp_path).get("/").text
    assert '{"kind": "replies rejected", "round": 2}' in page


def test_the_script_that_draws_is_served_and_kept(tmp_path: Path) -> None:
    answer = client(begun(), tmp_path).get(f"/{LIBRARY}")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/javascript")
    assert "max-age" in answer.headers["Cache-Control"]
    assert "echarts" in answer.text
