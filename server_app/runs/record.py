"""The record of a run as the report reads it: ``run.json`` and ``metrics.jsonl``.

The round loop appends one line a round and may be cut off in the middle of the last one, so that
line may be torn; any other damage is an error. Values that were not finite are recorded as null
and read back as NaN, and so is what can be no figure; a count that can be none is read as 0.
Unknown keys are left aside, so that older reports read newer records. docs/record.md says what
each key is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from common.errors import RunError

META = "run.json"
METRICS = "metrics.jsonl"
SCHEMA = 1
"""Version of the record; it rises when a key goes or means something else."""

MOST_DRAWN = 600  # rounds that a chart draws; of longer runs every k-th

LARGEST = 1e40
"""Above the largest number of 32 bits, which models have; its square and its inverse are finite."""


def _figure(value: object) -> float:
    """A number of the record; NaN for all that no run can have measured."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    if abs(value) < 1 / LARGEST:
        return 0.0
    return float(value) if abs(value) < LARGEST or value in (math.inf, -math.inf) else math.nan


def _count(value: object) -> int:
    number = _figure(value)
    return max(0, int(number)) if math.isfinite(number) else 0


def _moment(value: object) -> datetime | None:
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None


Number = Annotated[float, BeforeValidator(_figure)]
Count = Annotated[int, BeforeValidator(_count)]
Status = Literal["running", "finished", "failed", "stopped"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)


class Meta(_Record):
    """What was run, with what, where; the content of ``run.json``."""

    schema_version: Count = 0  # before it was numbered
    run: str
    method: str
    status: Status
    started: datetime
    ended: datetime | None = None
    settings: dict[str, Any] = Field(default_factory=dict)  # dotted public names
    seeds: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str | None] = Field(default_factory=dict)
    machine: str = ""
    model: dict[str, Any] = Field(default_factory=dict)
    global_model: bool = True  # False where models are the clients' own
    private_model: bool = False
    clients: dict[str, int] = Field(default_factory=dict)  # number of "sources" and "targets"
    resumed_from: str | None = None
    resumed_after: list[int] = Field(
        default_factory=list
    )  # rounds whose checkpoints it went on from
    diverged: int | None = None  # the round that found it, where that ended the run
    flower_run: int = 0  # Flower's id of the run that worked on it last
    page: str = ""  # where its live page was served, if it was
    devices: Count = 0  # of the fleet that can take part; 0 where the server has no list of them
    nodes: dict[str, str] = Field(default_factory=dict)  # id -> name in the fleet's settings
    leaves: dict[str, str] = Field(default_factory=dict)  # id of a node -> name of its leaf
    error: str | None = None  # why a run failed


class Missing(_Record):
    """A node that was asked and did not answer."""

    node: str
    reason: str = "no reason recorded"


class Rejected(_Record):
    """A reply that was not admitted to the model."""

    node: str
    field: str = ""
    reason: str = "no reason recorded"
    step: str = "training"  # or "evaluation" or "introduction"


class Training(_Record):
    """One client's part in a round."""

    node: str
    client: str
    seconds: Number = math.nan
    loss: Number = math.nan
    examples: Number = math.nan
    without: str = ""  # what the device had to do without, such as "no teacher"
    width: Number = math.nan  # share of the network that it trained, where clients differ
    widest: Number = math.nan  # the largest that it trains
    why: str = ""


class Evaluated(_Record):
    """One client's part in an evaluation; accuracies are shares from 0 to 1."""

    node: str
    client: str
    examples: Number = math.nan
    accuracy_before: Number = math.nan
    accuracy_after: Number = math.nan
    loss_after: Number = math.nan


class Means(_Record):
    """Of an evaluation, all clients counting the same."""

    accuracy_before: Number = math.nan
    accuracy_after: Number = math.nan
    accuracy_commonest: Number = math.nan
    loss_before: Number = math.nan
    loss_after: Number = math.nan


class Evaluation(_Record):
    """The model evaluated before and after adaptation; accuracies are shares from 0 to 1."""

    accuracy_before: Number = math.nan
    accuracy_after: Number = math.nan
    loss_before: Number = math.nan
    loss_after: Number = math.nan
    accuracy_commonest: Number = math.nan  # of naming each client's commonest class
    over_clients: Means = Means()  # the others are over images
    std_after: Number = math.nan
    worst_after: Number = math.nan  # of the client with the lowest
    examples: Number = math.nan
    clients: list[Evaluated] = Field(default_factory=list)


class Round(_Record):
    """One line of ``metrics.jsonl``; round 0 is before training."""

    round: int
    time: Annotated[datetime | None, BeforeValidator(_moment)] = None
    seconds: dict[str, Number] = Field(default_factory=dict)  # by phase
    bytes_down: Count = 0
    bytes_up: Count = 0
    replies: Count = 0
    asked: Count = 0
    missing: list[Missing] = Field(default_factory=list)
    rejected: list[Rejected] = Field(default_factory=list)
    refusals: int | None = None  # replies to requests to train that were, where they are not listed
    train: dict[str, Number] = Field(default_factory=dict)
    method: dict[str, Number] = Field(default_factory=dict)
    clients: list[Training] = Field(default_factory=list)
    evaluation: Evaluation | None = None
    evaluation_sources: Evaluation | None = None  # by those that train, where they evaluate
    evaluation_missing: list[Missing] = Field(default_factory=list)

    @property
    def refused(self) -> int:
        """Replies to requests to train that were rejected."""
        if self.refusals is not None:
            return self.refusals
        return sum(rejected.step == "training" for rejected in self.rejected)

    @property
    def void(self) -> bool:
        """Whether too few replies came to change the model."""
        return self.asked > 0 and not self.method and not self.train

    @property
    def fell_back(self) -> bool:
        """Whether the method has returned to an earlier model."""
        return self.method.get("fell_back", 0.0) > 0


@dataclass(frozen=True)
class Run:
    """A run read back: what it was, and its rounds in order.

    Charts draw at most ``most_drawn`` of them.
    """

    folder: Path
    meta: Meta
    rounds: Sequence[Round]
    most_drawn: int = MOST_DRAWN
    members: tuple[Run, ...] = ()  # the runs of which this is the mean, if it is one

    def name(self, node: str) -> str:
        """What people call a node: its name in the fleet's settings, with that of its leaf, or else
        its id."""
        name, leaf = self.meta.nodes.get(node, node), self.meta.leaves.get(node)
        return f"{name} (behind {leaf})" if leaf else name

    @cached_property
    def evaluated(self) -> list[tuple[Round, Evaluation]]:
        """The rounds that were evaluated, each with its evaluation.

        That is by clients that never train, and only where there is none by those that do.
        """
        return [(r, r.evaluation) for r in self.rounds if r.evaluation is not None] or [
            (r, r.evaluation_sources) for r in self.rounds if r.evaluation_sources is not None
        ]

    @property
    def lost(self) -> list[int]:
        """Rounds before the last one whose line the record lacks."""
        there = {line.round for line in self.rounds}
        return [number for number in range(max(there, default=0)) if number not in there]


_ROUND = TypeAdapter(Round)


def read_run(folder: Path) -> Run:
    """Read the record in ``folder``.

    Raises
    ------
    RunError: there is no such folder, it holds no run, or its record is damaged elsewhere than in
        the last line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"no run folder {folder}; give the folder that a run has written")
    return Run(folder, read_meta(folder), _read_rounds(folder))


def read_meta(folder: Path) -> Meta:
    """Read ``run.json`` in ``folder``.

    Raises
    ------
    RunError: there is none, it is damaged, or it is of a newer version.
    """
    path = folder / META
    try:
        meta = Meta.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise RunError(
            f"{folder} holds no run: it has no {META}; give the folder that a run has written"
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read as a run: {_first(error)}") from None
    if meta.schema_version > SCHEMA:
        raise RunError(
            f"{path} is a record of version {meta.schema_version}, and this release of AugFlower "
            f"reads up to {SCHEMA}: update it"
        )
    return meta


def readable(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line of ``metrics.jsonl`` whose every figure is a number, NaN where it was none.

    Raises
    ------
    RunError: it is not the record of a round.
    """
    try:
        return _ROUND.validate_python(line).model_dump(mode="json", exclude_unset=True)
    except ValidationError as error:
        raise RunError(f"a line is not the record of a round: {_first(error)}") from None


def _read_rounds(folder: Path) -> tuple[Round, ...]:
    path = folder / METRICS
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {_first(error)}") from None
    rounds: dict[int, Round] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = _ROUND.validate_json(line)
        except ValidationError as error:
            if number == len(lines):
                break
            raise RunError(
                f"{path}, line {number} is not the record of a round: {_first(error)}; "
                "restore the file, or take that line out"
            ) from None
        # A resumed run may play a round again: the later record is the one that counts.
        rounds[record.round] = record
    return tuple(rounds[number] for number in sorted(rounds))


def rounds_named(numbers: Sequence[int]) -> str:
    """Some rounds in words, such as "rounds 3 to 5 and 8"; they are sorted."""
    pieces: list[list[int]] = []
    for number in numbers:
        if pieces and number == pieces[-1][-1] + 1:
            pieces[-1][1:] = [number]
        else:
            pieces.append([number])
    *most, last = [" to ".join(map(str, piece)) for piece in pieces]
    plural = "s" if len(numbers) > 1 else ""
    return f"round{plural} {', '.join(most)} and {last}" if most else f"round{plural} {last}"


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        item = error.errors()[0]
        where = ".".join(str(part) for part in item["loc"])
        return f"{where}: {item['msg']}" if where else str(item["msg"])
    return str(error)


def by_node(entries: list[dict[str, str]]) -> list[dict[str, str]]:
    """Entries of the record in an order that does not depend on who was quick."""
    return sorted(entries, key=lambda entry: int(entry["node"]))
