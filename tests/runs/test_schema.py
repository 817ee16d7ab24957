"""The record's schema: documented field by field, versioned, and older records still open."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Error, Message
from pydantic import BaseModel

from common.errors import RunError
from server_app.report.write import write_report
from server_app.runs import record
from server_app.runs.record import SCHEMA, read_meta, read_run
from server_app.transport.in_process import FIRST_NODE

DOCUMENT = Path(__file__).parents[2] / "docs" / "record.md"
UNNUMBERED = Path(__file__).parent / "unnumbered"
"""What the first release wrote: AugFL, three rounds on the digits, a reply lost in round 2."""

SECTIONS: dict[str, type[BaseModel]] = {
    "run.json": record.Meta,
    "A line of metrics.jsonl": record.Round,
    "An entry of missing": record.Missing,
    "An entry of rejected": record.Rejected,
    "An entry of clients": record.Training,
    "An evaluation": record.Evaluation,
    "A client of an evaluation": record.Evaluated,
}
UNWRITTEN = {"refusals"}  # of the live page, which keeps counts alone
RARE = {"went_back", "without", "resumed_after", "diverged", "error"}


def documented() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for section in DOCUMENT.read_text().split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        cells = re.findall(r"^\| (`.*?) \|", body, re.MULTILINE)
        found[title] = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    return found


def keys(entries: Iterable[dict[str, Any] | None]) -> set[str]:
    return {key for entry in entries if entry for key in entry}


def test_what_is_read_and_written_is_documented_and_nothing_else(small_run: Callable[..., Path]):
    def interfere(message: Message, reply: Message) -> Message | None:
        at = message.metadata
        if at.message_type.startswith("train") and at.group_id == "1":
            match at.dst_node_id - FIRST_NODE:
                case 0:
                    return Message(Error(2, "no power"), reply_to=message)
                case 1:
                    reply.content.config_records["fields"]["loss"] = float("nan")
        return reply

    folder = small_run(
        "fml",
        {
            "data.sources": 4, "evaluation.who": "both", "data.test-fraction": 0.3,
            "round.return-timeout": 0.0,
        },
        interfere=interfere,
    )  # fmt: skip
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    evaluated = [line.get(name) for line in lines for name in ("evaluation", "evaluation_sources")]
    written = {
        "run.json": keys([json.loads((folder / "run.json").read_text())]),
        "A line of metrics.jsonl": keys(lines),
        "An entry of missing": keys(e for line in lines for e in line.get("missing", [])),
        "An entry of rejected": keys(e for line in lines for e in line.get("rejected", [])),
        "An entry of clients": keys(e for line in lines for e in line.get("clients", [])),
        "An evaluation": keys(evaluated),
        "A client of an evaluation": keys(c for e in evaluated if e for c in e["clients"]),
    }
    told = documented()
    assert told.keys() == SECTIONS.keys()
    for title, kind in SECTIONS.items():
        assert written[title], title
        read = set(kind.model_fields) - UNWRITTEN
        assert told[title] == read | written[title] | (RARE & told[title]), title
    phases = {phase for line in lines for phase in line["seconds"]}
    assert phases <= set(re.findall(r"`(\w+)`", DOCUMENT.read_text().split("`seconds` |")[1]))
    assert set(record.Means.model_fields) == keys(e["over_clients"] for e in evaluated if e)


def test_a_run_is_of_this_version(small_run: Callable[..., Path]):
    folder = small_run("fedavg", {"rounds": 0})
    assert json.loads((folder / "run.json").read_text())["schema_version"] == SCHEMA
    assert read_meta(folder).schema_version == SCHEMA
    assert f"is the version of what is described here, {SCHEMA}." in DOCUMENT.read_text()


def test_the_first_record_still_opens_in_the_report(tmp_path: Path):
    folder = tmp_path / "first-record"
    shutil.copytree(UNNUMBERED, folder)
    run = read_run(folder)
    assert (run.meta.schema_version, run.meta.global_model) == (0, True)
    assert [line.round for line in run.rounds] == [0, 1, 2, 3]
    assert [line.replies for line in run.rounds] == [0, 3, 2, 3]
    assert [evaluated.accuracy_after for _, evaluated in run.evaluated] == pytest.approx(
        [0.6582, 0.5696, 0.5696], abs=1e-4
    )
    page = write_report([folder], tmp_path / "page.html").read_text()
    assert "first-record" in page
    assert "57.0" in page
    both = write_report([folder, shutil.copytree(folder, tmp_path / "b")], tmp_path / "both.html")
    assert "first-record" in both.read_text()


def test_a_record_of_a_newer_version_is_refused(tmp_path: Path):
    folder = tmp_path / "newer"
    shutil.copytree(UNNUMBERED, folder)
    meta = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(meta | {"schema_version": SCHEMA + 1}))
    with pytest.raises(RunError, match=rf"version {SCHEMA + 1}.*reads up to {SCHEMA}: update"):
        read_run(folder)
