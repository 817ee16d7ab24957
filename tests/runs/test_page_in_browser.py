"""The page as a browser lays it out: no text over other text, none cut off, tooltips that work."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from server_app.report.write import write_report
from tests.runs.synthetic import write_run

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not BROWSER, reason="no Chromium here")]

PROBE = """
<script>
addEventListener("load", () => {
  const found = [], width = document.documentElement.clientWidth;
  for (const details of document.querySelectorAll("details")) details.open = true;
  for (const plot of document.querySelectorAll(".plot")) {
    const name = plot.querySelector("title").textContent;
    const texts = [...plot.querySelectorAll("text")]
      .map((text) => [text.textContent, text.getBoundingClientRect()])
      .filter(([, box]) => box.width > 0);
    texts.forEach(([text, a], i) => {
      if (a.left < 0 || a.right > width) found.push(["cut off", name, text]);
      for (const [other, b] of texts.slice(i + 1)) {
        const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (across > 1 && down > 2.5) found.push(["overlap", name, text, other]);
      }
    });
  }
  if (document.documentElement.scrollWidth > width) found.push(["page too wide"]);
  const plot = document.querySelector(".plot");
  const box = plot.getBoundingClientRect();
  plot.dispatchEvent(new PointerEvent("pointermove", { clientX: box.right, clientY: box.top }));
  const tip = document.querySelector(".tip").innerText;
  parent.postMessage({ found, tip, texts: document.querySelectorAll(".plot text").length }, "*");
});
</script>
"""


def lay_out(page: Path, width: int) -> dict[str, Any]:
    """What the probe found in the page, shown in a frame of that width."""
    source = html.escape(page.read_text(encoding="utf-8").replace("</body>", PROBE + "</body>"))
    outer = page.with_name("outer.html")
    outer.write_text(
        f'<iframe style="width:{width}px;height:3000px;border:0" srcdoc="{source}"></iframe>'
        '<pre id="out"></pre><script>onmessage = (event) => {'
        "document.getElementById('out').textContent = JSON.stringify(event.data)}</script>"
    )
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={page.parent / 'profile'}", "--virtual-time-budget=4000",
        "--window-size=1400,3000", "--dump-dom", outer.as_uri(),
    ]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    match = re.search(r'<pre id="out">(.+?)</pre>', dom, re.DOTALL)
    assert match, "the page's script did not finish"
    found: dict[str, Any] = json.loads(html.unescape(match[1]))
    return found


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_one_run(tmp_path: Path, width: int) -> None:
    folder = write_run(tmp_path / "a", rounds=1200, every=100, loses=0.1)
    found = lay_out(write_report([folder], tmp_path / "report.html"), width)
    assert found["texts"] > 50
    assert found["found"] == []
    assert re.match(r"round 1200\s+after\s+97", found["tip"])


@pytest.mark.parametrize("width", [360, 1280])
def test_a_comparison(tmp_path: Path, width: int) -> None:
    folders = [
        write_run(tmp_path / f"run-with-a-name-{i}", seed=i, rounds=20 + 10 * i, private=i % 2 == 0)
        for i in range(7)
    ]
    folders.append(write_run(tmp_path / "lost", diverges=7, status="failed"))
    found = lay_out(write_report(folders, tmp_path / "report.html"), width)
    assert found["found"] == []
