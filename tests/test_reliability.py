"""The table of docs/reliability.md names tests that exist, and its script tells what failed."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import faults, reliability
from benchmarks.reliability import TABLE, Case, cases, play, run
from tests.conftest import ROOT

APART = {"deploy", "slow", "docker"}
"""Tests with these marks run only where one of them is asked for."""
CASES = list(cases())
TESTS = sorted({line for case in CASES for line in case.commands if line.startswith("pytest ")})
MEASUREMENTS = sorted({x for case in CASES for x in case.commands if x.startswith("python ")})


def marks(path: Path) -> Iterator[tuple[str, set[str]]]:
    """The tests of a file with their marks."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lines = [ast.unparse(x) for x in tree.body if isinstance(x, ast.Assign)]
    shared = {word for line in lines if line.startswith("pytestmark") for word in found(line)}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            own = {word for line in node.decorator_list for word in found(ast.unparse(line))}
            yield node.name, shared | own


def found(line: str) -> list[str]:
    return re.findall(r"pytest\.mark\.(\w+)", line)


def selected(command: str) -> list[list[str]]:
    """The tests that a command runs, for each of the files or tests that it names."""
    words = shlex.split(command)[1:]
    options = {words[n]: words[n + 1] for n in range(len(words) - 1) if words[n][0] == "-"}
    wanted, pattern = options.get("-m"), options.get("-k", "").split(" or ")
    chosen = []
    for word in words:
        if word.startswith("-") or word in options.values():
            continue
        path, _, name = word.partition("::")
        chosen.append(
            [
                test for test, own in marks(ROOT / path)
                if (wanted in own if wanted else not own & APART)
                and name in ("", test) and any(part in test for part in pattern)
            ]
        )  # fmt: skip
    return chosen


def test_every_row_says_all():
    text = TABLE.read_text(encoding="utf-8").partition("\n## Measured")[0]
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(CASES) == sum(not line.startswith(("| case |", "| --- ")) for line in rows) >= 30
    for case in CASES:
        assert case.promise
        assert case.result
        assert case.commands
        for line in case.commands:
            assert line.startswith(("pytest ", "python -m benchmarks."))


@pytest.mark.parametrize("command", TESTS)
def test_a_command_names_tests_that_exist(command: str):
    chosen = selected(command)
    assert chosen
    assert all(chosen), "one of its names has no test"


def test_names_without_a_test_are_found():
    path = "tests/deploy/test_recovery.py"
    assert selected(f"pytest {path}::test_of_yesterday") == [[]]
    assert selected(f"pytest -m docker {path}") == [[]]
    assert selected(f"pytest {path}::test_errors_of_the_moment_end_nothing") == [[]]
    assert selected(f"pytest -m deploy {path} -k moment") == [
        ["test_errors_of_the_moment_end_nothing"]
    ]


@pytest.mark.parametrize("command", MEASUREMENTS)
def test_a_measurement_exists(command: str, monkeypatch: pytest.MonkeyPatch):
    module, *options = shlex.split(command)[2:]
    assert importlib.util.find_spec(module)
    if module == "benchmarks.faults":
        played: list[str] = []
        for table in ("lies", "leaving"):
            monkeypatch.setattr(faults, table, lambda *_, name=table: played.append(name))
        monkeypatch.setattr(sys, "argv", ["faults", *options])
        faults.main()
        assert played == options[:1]


def made(tmp_path: Path, name: str, body: str) -> str:
    (tmp_path / f"test_{name}.py").write_text(f"import pytest\n{body}\n")
    return f"pytest test_{name}.py"


def test_the_script_tells_what_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    good = made(tmp_path, "good", "def test_a(): pass")
    bad = made(tmp_path, "bad", "def test_a(): assert False")
    long = Case("long", "p", "r", ("pytest -m slow test_good.py", "python -m benchmarks.faults"))
    assert run([Case("good", "p", "r", (good,)), long], tmp_path)
    assert not run([Case("bad", "p", "r", (good, bad))], tmp_path)
    rows = [line.split(" | ")[2:] for line in capsys.readouterr().out.splitlines()]
    assert rows[2][0] == "pass"
    assert "1 passed" in rows[2][1]
    assert rows[3][0] == "not run here"
    assert rows[-1][0] == "FAIL"
    assert "1 failed" in rows[-1][1]


@pytest.mark.parametrize(
    "body", ["", "@pytest.mark.skip\ndef test_a(): pass", "import time\ntime.sleep(9)"]
)
def test_what_shows_nothing_is_no_success(
    body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reliability, "LONGEST", 5 if "sleep" in body else 60)
    passed, said = play(made(tmp_path, "empty", body), tmp_path)
    assert not passed
    assert said


def test_a_word_chooses_cases(monkeypatch: pytest.MonkeyPatch):
    chosen: list[list[str]] = []
    monkeypatch.setattr(
        reliability, "run", lambda some: bool(chosen.append([x.name for x in some]))
    )
    monkeypatch.setattr(sys, "argv", ["reliability", "flood"])
    with pytest.raises(SystemExit, match="True"):
        reliability.main()
    assert chosen == [[name for name in (case.name for case in CASES) if "flood" in name]]
    assert chosen[0]
