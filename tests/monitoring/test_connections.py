"""Connections that ask for nothing, or ask slowly, keep nobody else away."""

from __future__ import annotations

import contextlib
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from server_app.monitoring import connections
from server_app.monitoring.connections import MOST, MOST_OF_ADDRESS
from server_app.monitoring.server import LivePage
from server_app.place import Place
from tests.monitoring.made import begun

TOKEN = "x" * 16


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Of a live page that asks for a token."""
    page = LivePage(begun(), tmp_path, Place("127.0.0.1", 0, TOKEN), lambda text: None)
    yield int(page.url.rstrip("/").rpartition(":")[2])
    page.close()


def ask(port: int, path: str = "/healthz") -> int:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        return int(answer.status)


def open_from(port: int, address: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), source_address=(address, 0))


def closed_after(link: socket.socket, most: float) -> float:
    """Seconds until the other side closes."""
    link.settimeout(most)
    begun_at = time.monotonic()
    try:
        while link.recv(1 << 16):
            pass
    except ConnectionError:
        pass
    return time.monotonic() - begun_at


def still_open(links: list[socket.socket]) -> int:
    time.sleep(0.3)
    number = 0
    for link in links:
        link.setblocking(False)
        try:
            number += bool(link.recv(1))
        except BlockingIOError:
            number += 1
        except ConnectionError:
            pass
    return number


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n"])
def test_idle_connections_of_one_address_keep_nobody_away(port: int, said: bytes) -> None:
    with ExitStack() as stack:
        links = [stack.enter_context(open_from(port, "127.0.0.1")) for _ in range(2 * MOST)]
        for link in links[-MOST_OF_ADDRESS:]:
            link.sendall(said)
        for path in ("/healthz", "/", "/metrics"):
            assert ask(port, path) == 200
        assert 0 < still_open(links) <= MOST_OF_ADDRESS


def test_idle_connections_of_many_addresses_keep_nobody_away(port: int) -> None:
    with ExitStack() as stack:
        links = [
            stack.enter_context(open_from(port, f"127.0.1.{number % 40 + 1}"))
            for number in range(3 * MOST)
        ]
        assert ask(port) == ask(port, "/") == 200
        assert 0 < still_open(links) <= MOST


def test_slow_requests_are_timed_out(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST", 0.5)
    form = b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\ntoken="
    for said in (b"", b"GET /healthz HTTP/1.1\r\nHost: local", form):
        with open_from(port, "127.0.0.1") as link:
            link.sendall(said)
            assert 0.3 < closed_after(link, 3) < 2


def test_a_byte_now_and_then_wins_no_time(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST", 0.5)
    with open_from(port, "127.0.0.1") as link:
        link.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in link.recv(1 << 16)  # the second request of a connection is held to it
        begun_at = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < begun_at + 5:
                link.sendall(b"E")
                time.sleep(0.05)
        assert 0.3 < time.monotonic() - begun_at < 3


def test_an_answer_that_nobody_takes_is_given_up(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "ANSWER", 0.5)
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "report.html").write_text("x" * 50_000_000)
    request = f"GET /report HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    with open_from(port, "127.0.0.1") as link:
        link.sendall(request.encode())
        time.sleep(1.5)
        size = 0
        try:
            while piece := link.recv(1 << 20):
                size += len(piece)
        except ConnectionError:
            pass
    assert size < 50_000_000


def test_several_requests_of_one_connection_are_answered(port: int) -> None:
    with open_from(port, "127.0.0.1") as link:
        for _ in range(3):
            link.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2)
            answer = b""
            while answer.count(b"ok\n") < 2:
                answer += link.recv(1 << 16)
        assert still_open([link]) == 1
