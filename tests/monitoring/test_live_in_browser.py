"""The live page in a real browser, while a real run goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from server_app.monitoring.server import LivePage
from server_app.monitoring.status import Status
from server_app.monitoring.watch import Watch
from server_app.place import Place
from server_app.settings import ServerSettings
from tests.monitoring.browser import OVERLAPS, PROGRAM, Browser
from tests.monitoring.made import begun, close

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PROGRAM, reason="no Chromium here")]

Serve = Callable[..., LivePage]
TOKEN = "correct-horse-battery"
HEADLINE = "document.querySelector('h1')?.textContent"
LINK = "document.querySelector('.link').textContent"


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Shows a status, until the test is over."""
    pages: list[LivePage] = []

    def start(status: Status, token: str = "") -> LivePage:
        pages.append(LivePage(status, tmp_path, Place("127.0.0.1", 0, token), lambda text: None))
        return pages[-1]

    yield start
    for page in pages:
        page.close()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path / "profile") as browser:
        yield browser


def test_the_round_advances_before_the_readers_eyes(
    tmp_path: Path, small_run: Any, browser: Browser
) -> None:
    server = ServerSettings(runs=tmp_path / "runs", watch=Place("127.0.0.1", 0))
    gate, config = threading.Semaphore(0), {"augfl.lambda": 0.0, "rounds": 3}

    def hold(text: str) -> None:
        if text.startswith("round"):
            gate.acquire()

    with Watch(server, lambda text: None) as watch:
        run = threading.Thread(
            target=small_run, args=("augfl", config),
            kwargs={"server": server, "status": watch.status, "notice": hold},
        )  # fmt: skip
        run.start()
        browser.open(watch.url)
        browser.value("document.body.dataset.mark = 'the page was not loaded again'")
        browser.wait_for(f"{HEADLINE} === 'Before the first round'")
        gate.release()
        browser.wait_for(f"{HEADLINE} === 'Round 1 of 3'")
        assert browser.value("document.title").startswith("1/3")
        assert browser.value(LINK) == "live"
        # A tooltip that is open stays open while its chart grows.
        browser.point(".plot", 0.12)
        browser.wait_for("document.querySelector('.tip')?.innerText.startsWith('round 0')")
        gate.release()
        browser.wait_for(f"{HEADLINE} === 'Round 2 of 3'")
        browser.wait_for("document.querySelector('.plot').ariaLabel.includes('round 2')")
        browser.wait_for("document.querySelector('.tip')?.innerText.startsWith('round 0')")
        gate.release()
        gate.release()
        browser.wait_for(f"{HEADLINE}.includes('after adaptation on 4')")
        browser.wait_for(f"{LINK} === 'over'")
        assert browser.value("document.body.dataset.mark") == "the page was not loaded again"
        run.join()
    browser.wait_for(f"{LINK}.startsWith('not heard of since')")


def test_the_token_is_asked_for_once(serve: Serve, browser: Browser) -> None:
    status = begun()
    close(status, 0, 1)
    page = serve(status, TOKEN)
    browser.open(page.url)
    assert browser.value(HEADLINE) == "This page needs its token"
    browser.value(f"document.querySelector('#token').value = '{TOKEN}'")
    browser.value("document.forms[0].submit()")
    browser.wait_for(f"{HEADLINE} === 'Round 1 of 3'")
    assert TOKEN not in browser.value("location.href")
    browser.open(page.url)
    browser.wait_for(f"{HEADLINE} === 'Round 1 of 3' && {LINK} === 'live'")


def test_what_a_reader_opened_stays_open(serve: Serve, browser: Browser) -> None:
    status = begun()
    for number in range(20, 80):
        status.node(number, "online", clients=str(number))
    close(status, 0, 1)
    page = serve(status)
    browser.open(page.url, width=390)
    browser.value("document.querySelector('#nodes details').open = true")
    browser.value("document.querySelector('#nodes .scroll').scrollLeft = 60")
    status.node(20, "late", reason="no reply before the deadline")
    browser.wait_for("document.querySelector('#nodes .state.late')")
    assert browser.value("document.querySelector('#nodes details').open")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_layout(serve: Serve, browser: Browser, width: int, dark: bool) -> None:
    status = begun()
    close(status, *range(12))
    page = serve(status)
    browser.open(page.url, width=width, dark=dark)
    assert browser.value("document.querySelectorAll('.plot text').length") > 50
    assert browser.value(OVERLAPS) == []
    paper = browser.value("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 200) is dark


@pytest.mark.parametrize("dark", [False, True])
def test_what_is_painted(serve: Serve, browser: Browser, tmp_path: Path, dark: bool) -> None:
    """Text and charts are on the paper, in the shades of their scheme."""
    status = begun()
    close(status, *range(12))
    browser.open(serve(status).url, dark=dark)
    browser.screenshot(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as image:
        colours = image.convert("RGB").getcolors(image.width * image.height)
    assert image.width == 1280
    assert image.height > 900
    paper, shade = max(colours)
    assert (sum(shade) < 200) is dark
    assert len(colours) > 100
    assert 0.5 < paper / (image.width * image.height) < 0.99


def test_the_basics_need_no_script(serve: Serve, browser: Browser) -> None:
    status = begun()
    close(status, 0, 1)
    page = serve(status)
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(page.url)
    assert browser.value(HEADLINE) == "Round 1 of 3"
    assert browser.value("document.querySelector('.link').hidden")
    close(status, 2)
    browser.wait_for(f"{HEADLINE} === 'Round 2 of 3'")
