"""What docs/reliability.md promises, tried: runs the tests that its table names, two at a time.

    python -m benchmarks.reliability             # all that are short; none needs root
    python -m benchmarks.reliability flood date  # the cases with one of these words

Prints the table with what came out, and ends with 1 if a promise was not kept. What needs a Docker
engine, minutes of kills (``-m slow``) or a measurement is in the table and not run here.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import footer

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "reliability.md"
LONGEST = 400
"""Time that one command may take, s."""


@dataclass(frozen=True)
class Case:
    """A row of the table: what may happen, what is promised, what came of it, and how to see it."""

    name: str
    promise: str
    result: str
    commands: tuple[str, ...]

    @property
    def short(self) -> tuple[str, ...]:
        """Its commands that are run here."""
        tests = (line for line in self.commands if line.startswith("pytest "))
        return tuple(line for line in tests if not {"slow", "docker"} & set(shlex.split(line)))


def cases(table: Path = TABLE) -> Iterator[Case]:
    """The rows of all tables of a page that have these four columns."""
    for line in table.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and len(cells) == 4 and "`" in cells[3]:
            yield Case(cells[0], cells[1], cells[2], tuple(re.findall(r"`([^`]+)`", cells[3])))


def play(command: str, root: Path = ROOT) -> tuple[bool, str]:
    """Run one of pytest's command lines; whether it passed, and its last line."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", *shlex.split(command), "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            words, cwd=root, env=environment, capture_output=True, text=True, timeout=LONGEST,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False, f"not over after {LONGEST} s"
    said = (done.stdout + done.stderr).strip().splitlines() or [""]
    # Nothing selected is code 5; a row whose tests were all skipped has shown nothing either.
    passed = done.returncode == 0 and " passed" in said[-1]
    if not passed:
        print(f"{command} ended with {done.returncode}:", *said[-30:], sep="\n", file=sys.stderr)
    return passed, said[-1].strip("= ")


def run(chosen: list[Case], root: Path = ROOT) -> bool:
    """Print what came of each case as it ends; whether all promises were kept."""
    print("| case | promise | now | tests |\n" + "| --- " * 4 + "|", flush=True)
    kept = True
    with ThreadPoolExecutor(2) as pool:
        played = [[pool.submit(play, command, root) for command in case.short] for case in chosen]
        for case, ends in zip(chosen, played, strict=True):
            found = [end.result() for end in ends]
            passed = all(well for well, _ in found)
            kept &= passed
            word = ("pass" if passed else "FAIL") if found else "not run here"
            said = "; ".join(line for _, line in found)
            print(f"| {case.name} | {case.promise} | {word} | {said} |", flush=True)
    return kept


def main() -> None:
    """Run the cases that were named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="WORD")
    options = parser.parse_args()
    chosen = [
        case for case in cases()
        if not options.words or any(word.lower() in case.name.lower() for word in options.words)
    ]  # fmt: skip
    if not chosen:
        parser.error("no case has one of these words")
    begun = time.monotonic()
    kept = run(chosen)
    print(f"\n{time.monotonic() - begun:.0f} s · {footer('python -m benchmarks.reliability')}")
    sys.exit(not kept)


if __name__ == "__main__":
    main()
