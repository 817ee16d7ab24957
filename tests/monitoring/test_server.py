"""The page's thread: it serves, it ends, and it never ends a run."""

from __future__ import annotations

import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from server_app.monitoring.server import LivePage
from server_app.monitoring.status import Status
from server_app.monitoring.watch import Watch
from server_app.place import Place
from server_app.runs.folder import RunFolder
from server_app.settings import ServerSettings
from tests.monitoring.made import begun, close

Serve = Callable[..., LivePage]
HERE = Place("127.0.0.1", 0)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Shows a status, until the test is over."""
    pages: list[LivePage] = []

    def start(status: Status, place: Place = HERE) -> LivePage:
        pages.append(LivePage(status, tmp_path, place, lambda text: None))
        return pages[-1]

    yield start
    for page in pages:
        page.close()


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


def test_it_says_where_it_is(tmp_path: Path) -> None:
    for token, said in (("", ""), ("x" * 16, ", which asks for the token")):
        notices: list[str] = []
        page = LivePage(begun(), tmp_path, Place("127.0.0.1", 0, token), notices.append)
        page.close()
        assert notices == [f"watch the run at {page.url}{said}"]


def test_it_serves_and_ends(serve: Serve) -> None:
    page = serve(begun())
    assert "trial" in read(page.url)
    page.close()
    page.close()
    with pytest.raises(OSError, match="refused"):
        read(page.url)
    assert "live page" not in [thread.name for thread in threading.enumerate()]


def test_it_ends_although_somebody_is_connected(serve: Serve) -> None:
    page = serve(begun())
    port = int(page.url.rstrip("/").rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as idle:
        idle.sendall(b"GET / HTTP/1.1\r\n")
        started = time.monotonic()
        page.close()
        assert time.monotonic() - started < 3.5
    assert "live page" not in [thread.name for thread in threading.enumerate()]


def test_it_serves_ipv6(serve: Serve) -> None:
    page = serve(begun(), Place("::1", 0))
    if not page.url:
        pytest.skip("no IPv6 here")
    assert page.url.startswith("http://[::1]:")
    assert read(page.url + "healthz") == "ok\n"


def test_no_address_is_shown_that_nobody_can_reach(tmp_path: Path) -> None:
    notices: list[str] = []
    page = LivePage(begun(), tmp_path, Place("0.0.0.0", 0, "x" * 16), notices.append)
    try:
        port = page.url.rstrip("/").rpartition(":")[2]
        assert notices == [f"watch the run at port {port} of the server, which asks for the token"]
    finally:
        page.close()


def test_a_port_that_is_taken_is_a_notice(tmp_path: Path, small_run: Any) -> None:
    notices: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = ServerSettings(runs=tmp_path, watch=Place("127.0.0.1", port))
        with Watch(server, notices.append) as watch:
            folder = small_run("fedavg", server=server, status=watch.status)
    assert watch.url == ""
    [notice] = notices
    assert notice.startswith(f"no live page, the run goes on: 127.0.0.1:{port} cannot be used (")
    assert "set AUGFLOWER_WATCH to a free port" in notice
    assert (folder / "report.html").exists()


def test_a_host_that_is_not_here_is_a_notice(tmp_path: Path) -> None:
    notices: list[str] = []
    page = LivePage(begun(), tmp_path, Place("192.0.2.1", 0, "x" * 16), notices.append)
    assert page.url == ""
    assert "cannot be used" in notices[0]


def test_a_run_is_seen_from_its_beginning_to_its_end(tmp_path: Path, small_run: Any) -> None:
    server = ServerSettings(runs=tmp_path, watch=HERE)
    titles: list[str] = []
    with Watch(server, lambda text: None) as watch:
        folder = small_run(
            "augfl", {"augfl.lambda": 0.0, "rounds": 3}, server=server, status=watch.status,
            notice=lambda text: titles.append(read(watch.url).split("<title>")[1][:5]),
        )  # fmt: skip
        assert titles[-2].startswith("3/3")
        assert titles[-1].startswith("finis")
        page = read(watch.url)
        assert "after adaptation on 4\u00a0clients that never took part" in page
        assert read(watch.url + "report") == (folder / "report.html").read_text()
        metrics = read(watch.url + "metrics")
    assert 'augflower_phase{phase="finished"} 1.0' in metrics
    assert 'augflower_training_replies_total{outcome="admitted"} 9.0' in metrics
    assert 'augflower_nodes{state="online"} 4.0' in metrics


def test_a_run_that_fails_leaves_its_reason_on_the_page(
    tmp_path: Path, small_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ServerSettings(runs=tmp_path, watch=HERE)

    def fail(self: RunFolder, line: Any) -> None:
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr(RunFolder, "append", fail)
    with Watch(server, lambda text: None) as watch:
        with pytest.raises(RuntimeError):
            small_run("fedavg", server=server, status=watch.status)
        page = read(watch.url)
    assert "The run failed" in page.partition("<h1>")[2][:400]
    assert "the disk is on fire" in page


def test_nothing_is_started_that_was_not_asked_for(tmp_path: Path) -> None:
    before = threading.active_count()
    with Watch(ServerSettings(runs=tmp_path), lambda text: None) as watch:
        assert threading.active_count() == before
        assert watch.url == ""


def test_readers_do_not_slow_the_writer(serve: Serve) -> None:
    status = begun()
    page = serve(status)
    close(status, *range(50))
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            read(page.url + "parts")

    reader = threading.Thread(target=look)
    reader.start()
    longest = 0.0
    for number in range(100):
        begun_at = time.perf_counter()
        status.phase(50 + number, "train")
        longest = max(longest, time.perf_counter() - begun_at)
        time.sleep(0.002)
    stop.set()
    reader.join()
    assert longest < 0.5


def test_settings_keep_the_token_to_themselves() -> None:
    server = replace(ServerSettings(), watch=Place("0.0.0.0", 1, "correct-horse-battery"))
    assert "correct" not in repr(server)
