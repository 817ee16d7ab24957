"""Every public setting of a run, typed and with bounds.

``[tool.flwr.app.config]`` holds the defaults and ``flwr run --run-config`` overrides them; both
reach every device, unless the SuperLink is the project's own, so nothing secret may be a setting
here. A method's own settings live beside its server half and are named ``<method>.<setting>``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from common.errors import SettingsError

Model = TypeVar("Model", bound=BaseModel)
Partition = Literal[
    "cyclic-pairs",
    "random-pairs",
    "pathological",
    "dirichlet",
    "iid",
    "natural",
    "pfllib-dirichlet",
    "pfllib-pathological",
    "pfllib-dir01",
]

PARTITIONS: dict[Partition, str] = {
    "cyclic-pairs": "two neighbouring classes a client, in turn, as in AugFL's experiments",
    "random-pairs": "two classes a client, from shuffled decks of all classes",
    "pathological": "data.classes-per-client classes a client",
    "dirichlet": "every client its own mix of classes, from a Dirichlet distribution",
    "iid": "every client the same mix of classes",
    "natural": "the clients that the data set itself names",
    "pfllib-dirichlet": "all images by draws from a Dirichlet distribution, as PFLlib draws them",
    "pfllib-pathological": "all images, data.classes-per-client classes a client, as PFLlib does",
    "pfllib-dir01": "all of fashion-mnist to 20 clients, by PFLlib's published counts of Dir(0.1)",
}
"""What each partition does."""

PFLLIB: frozenset[Partition] = frozenset(
    {"pfllib-dirichlet", "pfllib-pathological", "pfllib-dir01"}
)
"""Partitions of all images, whatever ``samples_min`` and ``samples_max`` say."""

FOR_DEVICES = frozenset(
    {"method", "model", "own-models", "pretrained-weights", "seed", "run-name"}
    | {"data", "evaluation"}
)
"""Settings and sections that devices read. What they need of a method's comes with each round."""

OF_THE_SERVERS_IMAGES = frozenset(
    {"data.pretrain-images", "data.server-images", "data.server-classes"}
)
"""Read by devices only where a data set is partitioned: they say what is left for the clients."""

LATE_ROUNDS = 10
"""Deadlines after which a late node that has not answered is asked again."""


class Settings(BaseModel):
    """Base of all settings: immutable, unknown keys refused, hyphens in public names."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
    )


class DataSettings(Settings):
    """Which images, and who holds which."""

    name: str = Field("digits", description="Data set, or 'folder' for each device's own images.")
    class_names: str = Field("", description="Classes of devices' own images, separated by commas.")
    partition: Partition = Field("random-pairs", description="How clients get their images.")
    sources: int = Field(6, ge=1, le=100_000, description="Clients that train.")
    targets: int = Field(18, ge=0, le=100_000, description="Clients that never train.")
    classes_per_client: int = Field(
        2, ge=1, description="Classes a client: pathological partition, tasks for own images."
    )
    dirichlet_alpha: float = Field(0.5, gt=0, description="Dirichlet partition: concentration.")
    samples_min: int = Field(10, ge=2, description="Fewest images a class a client.")
    samples_max: int = Field(20, ge=2, description="Most images a class a client.")
    support_fraction: float = Field(
        0.2, gt=0, lt=1, description="Share of a client's images to adapt on."
    )
    test_fraction: float = Field(
        0.0, ge=0, lt=1, description="Share of a client's images that nobody learns from."
    )
    server_images: int = Field(300, ge=0, description="Size of the server's own set D_s.")
    server_classes: int = Field(
        0, ge=0, description="Classes, the first, that the server has images of; 0: all."
    )
    pretrain_images: int = Field(500, ge=0, description="Images the private model may train on.")
    weight_limit: float = Field(
        3.0, ge=0, description="Devices' own images: most that one counts for, in medians; 0: any."
    )
    image_size: int = Field(8, ge=4, le=1024, description="Height and width, pixels.")
    channels: Literal[1, 3] = Field(1, description="1: grey, 3: red, green, blue.")
    seed: int = Field(0, ge=0, lt=2**32, description="Of the partition; apart from the run's seed.")

    @property
    def classes(self) -> tuple[str, ...]:
        """The names in ``class_names``."""
        return tuple(name.strip() for name in self.class_names.split(",") if name.strip())

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.samples_min > self.samples_max:
            raise ValueError(
                f"samples-min={self.samples_min} is over samples-max={self.samples_max}"
            )
        return self


class EvaluationSettings(Settings):
    """How, by whom and how often the model is evaluated."""

    every: int = Field(5, ge=0, description="Rounds between evaluations; 0 evaluates only the end.")
    alpha: float = Field(0.05, gt=0, le=10, description="Adaptation rate.")
    steps: int = Field(1, ge=0, le=1000, description="Adaptation steps on the support set.")
    statistics: Literal["support", "query", "running"] = Field(
        "support", description="Whose BatchNorm statistics an adapted model is evaluated with."
    )
    who: Literal["targets", "sources", "both"] = Field(
        "targets", description="Clients that never train, those that do, or both."
    )


class RoundSettings(Settings):
    """Who takes part in a round, and how long it may last.

    A reply counts if it comes before the deadline, or is there when it has passed. After that its
    node is late: it is not asked again before it has answered, or ``LATE_ROUNDS`` deadlines have
    passed, and what it then sends is dropped. The method treats that node as absent, and a device's
    memory tells which of its replies counted. A node that is slow thus costs the run one deadline
    for each answer that it finishes, and stops nothing.

    A node that fails or is lost on the way is asked once more in the same round, if it is there
    again within ``return_timeout``.
    """

    nodes: int = Field(
        0, ge=0, description="Nodes that a run waits for before it begins; 0: all of the fleet."
    )
    wait: float = Field(300, gt=0, description="Longest wait for them, seconds.")
    fraction: float = Field(1.0, gt=0, le=1, description="Share of the source nodes asked a round.")
    deadline: float = Field(600, gt=0, description="Longest wait for replies, seconds.")
    quorum: float = Field(
        0.5, gt=0, le=1, description="Share of the asked nodes without which a round is void."
    )
    return_timeout: float = Field(
        30, ge=0, description="Wait for a node lost in a round, seconds; 0: it is not asked again."
    )


class RunSettings(Settings):
    """All public settings of a run, apart from those of its method."""

    method: str = Field("augfl", description="One of the methods.")
    rounds: int = Field(30, ge=0, le=1_000_000, description="Rounds of training.")
    model: str = Field("cnn-tiny", description="Architecture of the clients' model.")
    own_models: str = Field(
        "", description="Architectures of clients' own models, in turn; empty: that of model."
    )
    pretrained_weights: str = Field(
        "",
        description="Its start: a tag of published weights, a file or a folder.",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Of initialisation, sampling and batches.")
    run_name: str = Field(
        "", pattern=r"^(\w[\w.-]*)?$", description="Folder of the run; empty takes the time."
    )
    resume: bool = Field(False, description="Go on with the run of that name.")
    keep_checkpoints: int = Field(3, ge=0, description="Checkpoints kept; 0 keeps all.")
    data: DataSettings = DataSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    round: RoundSettings = RoundSettings()

    @model_validator(mode="after")
    def _sources_have_test_images(self) -> Self:
        if self.evaluation.who != "targets" and not self.data.test_fraction:
            raise ValueError(
                f"evaluation.who={self.evaluation.who} needs images that clients do not train on: "
                "set data.test-fraction, such as 0.25"
            )
        return self

    def evaluates(self, round: int) -> bool:
        """Whether the model is evaluated in this round."""
        every = self.evaluation.every
        return round == self.rounds or bool(every and round % every == 0)


def read_run_config(config: Mapping[str, Any], sections: Iterable[str]) -> RunSettings:
    """The run's settings from Flower's flat run config.

    Parameters
    ----------
    config: dotted keys, as in ``context.run_config``.
    sections: names of the sections that others read, such as those of the methods; left aside.

    Raises
    ------
    SettingsError: a key is unknown, of the wrong type or out of bounds.
    """
    skipped = set(sections)
    nested: dict[str, Any] = {}
    for key, value in config.items():
        section, dot, rest = key.partition(".")
        if not dot:
            nested[key] = value
        elif section not in skipped:
            nested.setdefault(section, {})[rest] = value
    return parse(RunSettings, nested, "")


def other_sections(config: Mapping[str, Any]) -> set[str]:
    """Sections of a flat run config that are not the run's own, such as those of the methods."""
    own = {field.alias or name for name, field in RunSettings.model_fields.items()}
    return {key.partition(".")[0] for key in config if "." in key} - own


def for_devices(config: Mapping[str, Any]) -> dict[str, Any]:
    """What devices need of a run's flat config; for the rest they may have the defaults."""
    withheld = OF_THE_SERVERS_IMAGES if config.get("data.name") == "folder" else frozenset[str]()
    return {
        key: value
        for key, value in config.items()
        if key.partition(".")[0] in FOR_DEVICES and key not in withheld
    }


def read_section(kind: type[Model], config: Mapping[str, Any], section: str) -> Model:
    """One section of the run config, such as a method's settings.

    Raises
    ------
    SettingsError: a key is unknown, of the wrong type or out of bounds.
    """
    prefix = f"{section}."
    own: dict[str, Any] = {}
    for key, value in config.items():
        if key.startswith(prefix):
            inner, dot, rest = key.removeprefix(prefix).partition(".")
            if dot and isinstance(own.setdefault(inner, {}), dict):
                own[inner][rest] = value
            else:
                own[inner] = value
    return parse(kind, own, prefix)


def parse(kind: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """Validate ``values`` as ``kind``; every problem is named, with the nearest known key.

    Raises
    ------
    SettingsError: an unknown key, a wrong type or a value out of bounds.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        known = list(defaults(kind))
        lines = [_problem(dict(item), known, where) for item in error.errors()]
        raise SettingsError("\n".join(lines)) from None


def defaults(kind: type[BaseModel]) -> dict[str, Any]:
    """Dotted public name -> default of every setting of ``kind``, sections included."""
    result: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        key = field.alias or name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            # A section that must be given has no values of its own, but its keys are known.
            known = isinstance(field.default, BaseModel)
            inner = _values(field.default) if known else defaults(field.annotation).items()
            result |= {f"{key}.{rest}": value for rest, value in inner}
        else:
            result[key] = field.default
    return result


def _values(settings: BaseModel) -> Iterator[tuple[str, Any]]:
    for name, field in type(settings).model_fields.items():
        key, value = field.alias or name, getattr(settings, name)
        if isinstance(value, BaseModel):
            yield from ((f"{key}.{rest}", inner) for rest, inner in _values(value))
        else:
            yield key, value


def _problem(item: Mapping[str, Any], known: list[str], where: str) -> str:
    key = ".".join(str(part) for part in item["loc"])
    name = f"{where}{key}" if key else where.rstrip(".") or "settings"
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, known, n=2)
        hint = f"; did you mean {' or '.join(where + n for n in near)}?" if near else ""
        return f"unknown setting {name}{hint}"
    return (
        f"setting {name}: {item['msg']} (got {item['input']!r})"
        if key
        else f"{name}: {item['msg']}"
    )
