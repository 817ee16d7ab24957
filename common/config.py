"""Every public setting of a run, typed and with bounds.

``[tool.flwr.app.config]`` holds the defaults and ``flwr run --run-config`` overrides them; both
reach every device, so nothing secret may be a setting here. A method's own settings live beside
its server half and are named ``<method>.<setting>``.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from common.errors import SettingsError

Model = TypeVar("Model", bound=BaseModel)
Partition = Literal["cyclic-pairs", "random-pairs", "pathological", "dirichlet", "iid"]


class Settings(BaseModel):
    """Base of all settings: immutable, unknown keys refused, hyphens in public names."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
    )


class DataSettings(Settings):
    """Which images, and who holds which."""

    name: str = Field("digits", description="Data set, or 'folder' for each device's own images.")
    partition: Partition = Field("random-pairs", description="How images are dealt to clients.")
    sources: int = Field(6, ge=1, le=100_000, description="Clients that train.")
    targets: int = Field(40, ge=0, le=100_000, description="Clients that never train.")
    classes_per_client: int = Field(
        2, ge=1, description="Pathological partition: classes a client."
    )
    dirichlet_alpha: float = Field(0.5, gt=0, description="Dirichlet partition: concentration.")
    samples_min: int = Field(10, ge=1, description="Fewest images a class a client.")
    samples_max: int = Field(20, ge=1, description="Most images a class a client.")
    support_fraction: float = Field(
        0.2, gt=0, lt=1, description="Share of a client's images to adapt on."
    )
    server_images: int = Field(400, ge=0, description="Size of the server's own set D_s.")
    pretrain_images: int = Field(600, ge=0, description="Images the private model may train on.")
    image_size: int = Field(8, ge=4, le=1024, description="Height and width, pixels.")
    channels: int = Field(1, ge=1, le=4, description="Colour channels.")
    seed: int = Field(0, ge=0, lt=2**32, description="Of the partition; apart from the run's seed.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.samples_min > self.samples_max:
            raise ValueError(
                f"samples-min={self.samples_min} is over samples-max={self.samples_max}"
            )
        return self


def parse(kind: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """Validate ``values`` as ``kind``; every problem is named, with the nearest known key.

    Raises
    ------
    SettingsError: an unknown key, a wrong type or a value out of bounds.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        known = [f.alias or name for name, f in kind.model_fields.items()]
        lines = [_problem(dict(item), known, where) for item in error.errors()]
        raise SettingsError("\n".join(lines)) from None


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
