import os
import sys
import time
from pathlib import Path

import pytest

from common.errors import FleetError
from deploy.processes import Process, stop_all


def python(name: str, program: str, folder) -> Process:
    return Process(name, [sys.executable, "-c", program], os.environ, folder / f"{name}.log")


def wait_for(text: str, process: Process) -> None:
    deadline = time.monotonic() + 10
    while text not in process.output():
        assert time.monotonic() < deadline, process.output()
        time.sleep(0.02)


def test_an_early_end_is_named_with_the_last_lines_of_the_log(tmp_path):
    process = python("node-3", "print('no such key'); raise SystemExit(4)", tmp_path)
    process.start()
    wait_for("no such key", process)
    while process.running:
        time.sleep(0.02)
    with pytest.raises(FleetError, match=r"node-3 ended with exit code 4[\s\S]*no such key"):
        process.check()


def test_output_is_that_of_the_last_start(tmp_path):
    process = python("node", "import os; print('from', os.getpid(), flush=True)", tmp_path)
    for _ in range(2):
        process.start()
        wait_for("from", process)
        process.finish(time.monotonic() + 5)
    assert process.log.read_text().count("from") == 2
    assert process.output().count("from") == 1


def test_what_does_not_stop_is_killed_with_its_children(tmp_path):
    stubborn = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = os.fork()\n"
        "if child: print('child', child, flush=True)\n"
        "time.sleep(60)\n"
    )
    process = python("stubborn", stubborn, tmp_path)
    process.start()
    wait_for("\n", process)
    child = int(process.output().split()[1])
    stop_all([process], grace=0.3)
    assert not process.running
    deadline = time.monotonic() + 5
    while _alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_all_processes_of_a_group_are_listed(tmp_path):
    program = "import os, time; pid = os.fork(); pid and print(pid, '!', flush=True); time.sleep(9)"
    process = python("a", program, tmp_path)
    assert process.pids() == []
    process.start()
    try:
        wait_for("!", process)
        child = int(process.output().split()[0])
        assert process.pids()[1:] == [child]
    finally:
        process.kill()
    assert process.pids() == []
