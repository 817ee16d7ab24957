"""What a run's page weighs, and how long Chromium takes until all its charts are drawn.

The runs are made up: records of given length, as a run of AugFL writes them.

    python -m benchmarks.report_pages --rounds 40 300 --repeats 5
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from benchmarks.machine import footer, milliseconds
from server_app.report.write import write_report
from tests.monitoring.browser import PROGRAM, Browser
from tests.runs.synthetic import write_run

COMMAND = "python -m benchmarks.report_pages"
DRAWN = "document.querySelector('.plot svg path')"
TIME = "performance.timing.domContentLoadedEventEnd - performance.timing.navigationStart"
"""From the beginning of the navigation to the end of the page's last script, ms."""


def main() -> None:
    """Print a line for each length of run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, nargs="+", default=[40, 300])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print("| rounds | in a folder, kB | alone, kB | to write, ms | until drawn, ms |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for rounds in options.rounds:
            print(_line(Path(folder) / str(rounds), rounds, options.repeats))
    print(f"\nThe script that a folder's pages share has 715 kB. {footer(COMMAND)}")


def _line(folder: Path, rounds: int, repeats: int) -> str:
    run = write_run(folder / "run", rounds=rounds, every=max(1, rounds // 40), loses=0.03)
    page = run / "report.html"
    alone = write_report([run], folder / "alone.html")
    write_report([run], page, folder)
    writing = [milliseconds(lambda: write_report([run], page, folder)) for _ in range(repeats)]
    drawing = []
    for number in range(repeats if PROGRAM else 0):
        with Browser(folder / f"profile-{number}") as browser:
            browser.open(page.as_uri())
            browser.wait_for(DRAWN)
            drawing.append(browser.value(TIME))
    sizes = [f"{path.stat().st_size / 1e3:,.0f}" for path in (page, alone)]
    drawn = f"{statistics.median(drawing):.0f}" if drawing else "no Chromium"
    return f"| {rounds} | {sizes[0]} | {sizes[1]} | {statistics.median(writing):.0f} | {drawn} |"


if __name__ == "__main__":
    main()
