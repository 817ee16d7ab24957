"""The page in a browser: no text over other text, none cut off, charts that answer."""

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

from server_app.report.scales import significant
from server_app.report.write import write_report
from tests.monitoring.browser import OVERLAPS, PROGRAM, Browser
from tests.runs.synthetic import write_run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PROGRAM, reason="no Chromium here")]

TIP = "document.querySelector('.tip')?.innerText ?? ''"
TICKS = (
    "[...document.querySelectorAll('.plot')[0].querySelectorAll('text')].map(t => t.textContent)"
)


DRAWN = (
    "[...document.querySelectorAll('%s .plot svg *')]"
    ".filter((part) => getComputedStyle(part).stroke === '%s').length"
)  # parts of charts in a section whose lines have a colour
BLUE = {False: "rgb(20, 94, 193)", True: "rgb(117, 176, 255)"}  # dark or not


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path / "profile") as browser:
        yield browser


def show(browser: Browser, *folders: Path, width: int = 1280, dark: bool = False) -> None:
    page = write_report(folders, folders[0].with_name("report.html"))
    browser.open(page.as_uri(), width=width, dark=dark)
    browser.value("document.querySelectorAll('details').forEach((found) => (found.open = true))")


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_one_run(tmp_path: Path, browser: Browser, width: int) -> None:
    show(browser, write_run(tmp_path / "a", rounds=1200, every=100, loses=0.1), width=width)
    assert browser.value("document.querySelectorAll('.plot text').length") > 50
    assert browser.value(OVERLAPS) == []
    assert browser.value("performance.getEntriesByType('resource')") == []


@pytest.mark.parametrize("width", [360, 1280])
def test_a_comparison(tmp_path: Path, browser: Browser, width: int) -> None:
    folders = [
        write_run(tmp_path / f"run-with-a-name-{i}", seed=i, rounds=20 + 10 * i, private=i % 2 == 0)
        for i in range(7)
    ]
    folders.append(write_run(tmp_path / "lost", diverges=7, status="failed"))
    show(browser, *folders, width=width)
    assert browser.value(OVERLAPS) == []


def test_the_pointer_and_the_keys_show_values(tmp_path: Path, browser: Browser) -> None:
    folder = write_run(tmp_path / "a", rounds=40, loses=0.3)
    show(browser, folder)
    browser.point(".plot", 0.3)
    browser.wait_for(f"/^round \\d+\\s+after/.test({TIP})")
    shown = browser.value(TIP)
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    accuracy = {x["round"]: x["evaluation"]["accuracy_after"] for x in lines if "evaluation" in x}
    match = re.match(r"round (\d+)\s+after\s+([\d.]+)", shown)
    assert match
    assert float(match[2]) == pytest.approx(100 * accuracy[int(match[1])], abs=0.051)
    assert "8 of 10 clients" in shown
    browser.value("document.querySelector('.plot').focus()")
    for key in ("Home", "ArrowRight"):
        browser.call("Input.dispatchKeyEvent", type="keyDown", key=key)
    browser.wait_for(f"{TIP}.startsWith('round 5')")


def test_a_line_is_hidden_and_shown_again(tmp_path: Path, browser: Browser) -> None:
    show(browser, write_run(tmp_path / "a"), write_run(tmp_path / "b", private=False))
    lines = DRAWN % ("#losses", BLUE[False])
    before, entry = browser.value(lines), "document.querySelector('#losses .legend button')"
    assert before >= 3
    browser.value(f"{entry}.click()")
    assert browser.value(lines) == 0
    assert browser.value(f"{entry}.ariaPressed") == "false"
    browser.value(f"{entry}.click()")
    assert browser.value(lines) == before


def test_a_stretch_is_chosen_by_dragging(tmp_path: Path, browser: Browser) -> None:
    show(browser, write_run(tmp_path / "a", rounds=40))
    before = browser.value(TICKS)
    assert "40" in before
    x, y = browser.point(".plot", 0.2, 0.1)
    browser.mouse("mousePressed", x, y, clicks=1)
    for step in range(1, 6):
        browser.mouse("mouseMoved", x + 30 * step, y + 20 * step, clicks=1)
    browser.mouse("mouseReleased", x + 150, y + 100, clicks=1)
    browser.wait_for(f"!{TICKS}.includes('40')")
    browser.value("document.querySelector('.tools button').click()")
    browser.wait_for(f"{TICKS}.includes('40')")
    assert browser.value(TICKS) == before


def test_a_picture_for_a_paper(tmp_path: Path, browser: Browser) -> None:
    show(browser, write_run(tmp_path / "a"), dark=True)
    browser.value(
        "URL.createObjectURL = (blob) => { blob.text().then((text) => (window.saved = text)); "
        "return '#' }"
    )
    browser.value("document.querySelector('.tools button:last-child').click()")
    browser.wait_for("window.saved")
    picture = ElementTree.fromstring(browser.value("window.saved"))
    assert (picture.get("width"), picture.get("height")) == ("640", "360")
    assert "#145ec1" in browser.value("window.saved")  # that of the light scheme
    text = " ".join(picture.itertext())
    assert "round" in text
    assert "before" in text


def test_numbers_are_written_as_in_the_text(tmp_path: Path, browser: Browser) -> None:
    show(browser, write_run(tmp_path / "a"))
    values = [0, 0.1557, 4e-4, 34.24, 1234, 12345.6, 1.2e-5, 1e-5, 123456, -2.5, -3.2e-9, 9.999]
    values += [99999, -1e7, 2.5, 1e30, *(math.pi * 10**power for power in range(-8, 9))]
    written = browser.value(f"{json.dumps(values)}.map((value) => figureOf(value, null))")
    assert written == [significant(value) for value in values]


@pytest.mark.parametrize("dark", [False, True])
def test_charts_have_the_colours_of_their_scheme(
    tmp_path: Path, browser: Browser, dark: bool
) -> None:
    show(browser, write_run(tmp_path / "a"), dark=dark)
    assert browser.value(DRAWN % ("", BLUE[dark])) > 3
    assert browser.value(DRAWN % ("", BLUE[not dark])) == 0
    other = {"name": "prefers-color-scheme", "value": "light" if dark else "dark"}
    browser.call("Emulation.setEmulatedMedia", features=[other])
    assert browser.value(DRAWN % ("", BLUE[not dark])) > 3
    assert browser.value(DRAWN % ("", BLUE[dark])) == 0


def test_a_page_without_scripts_says_what_its_charts_show(tmp_path: Path, browser: Browser) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    show(browser, write_run(tmp_path / "a"))
    assert "after: from" in browser.value("document.querySelector('.plot').innerText")


def test_runs_in_one_folder_share_a_script(tmp_path: Path, browser: Browser) -> None:
    for name in ("a", "b"):
        folder = write_run(tmp_path / name)
        page = write_report([folder], folder / "report.html", tmp_path)
        assert page.stat().st_size < 150_000
        browser.open(page.as_uri())
        assert browser.value(DRAWN % ("", BLUE[False])) > 3
    (script,) = (path for path in tmp_path.iterdir() if path.suffix == ".js")
    script.unlink()  # as where the page alone was sent to somebody
    browser.open(page.as_uri())
    assert "after: from" in browser.value("document.querySelector('.plot').innerText")


def test_names_of_lines_of_any_length_stand_at_the_edge(tmp_path: Path, browser: Browser) -> None:
    folders = [write_run(tmp_path / f"r{i}", seed=i, rounds=20 + 20 * i) for i in range(3)]
    show(browser, *folders)
    lefts = browser.value(
        "[...document.querySelector('.plot').querySelectorAll('text')]"
        ".filter((text) => /^r\\d/.test(text.textContent))"
        ".map((text) => text.getBoundingClientRect().left)"
    )
    assert len(lefts) == 3
    assert max(lefts) - min(lefts) < 1


def test_a_printed_page_has_whole_charts_in_dark_lines(tmp_path: Path, browser: Browser) -> None:
    show(browser, write_run(tmp_path / "a"), dark=True)
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    browser.call("Emulation.setEmulatedMedia", media="print", features=[dark])
    # At once, for a browser that prints does not wait until a chart has seen its new size.
    right = browser.value(
        "(() => { document.body.style.width = '600px';"
        "return Math.max(...[...document.querySelectorAll('.plot svg')]"
        ".map((drawn) => drawn.getBoundingClientRect().right)) })()"
    )
    assert right <= 600
    light, screen = (DRAWN % ("", BLUE[scheme]) for scheme in (False, True))
    assert browser.value(light) > 3
    assert browser.value(screen) == 0
    browser.call("Emulation.setEmulatedMedia", media="screen", features=[dark])
    assert browser.value(screen) > 3
