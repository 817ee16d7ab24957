"""Which teachers a device has: a TOML file of its own, named by ``teachers`` in its node config.

    cache = "~/.cache/augflower/teachers"   # where answers are kept
    memory = 0                              # MiB that a teacher may take; 0: what is free
    prompts = ["a photo of a {}."]          # instead of the data set's own

    [class-names]                           # how prompts call a class; others keep their name
    "T-shirt/top" = "t-shirt"

    [[teacher]]                             # one table each
    model = "ViT-B-32"                      # open_clip's name, or local-dir:FOLDER, hf-hub:REPO
    pretrained = "laion2b_s34b_b79k"        # a public tag, or
    checkpoint = "weights.safetensors"      # a file; paths start at the folder of this one
    weight = 1.0                            # among several teachers
    tuning = "none"                         # "head" or "full": fine-tuned on the device's images

Nothing in it comes from a server. Nothing in it goes to one but what the message of an error names
before a run, so that the operator can help: a model, a path, a prompt or a class.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

from pydantic import Field

from common.config import Settings, parse
from common.errors import SettingsError

LOCAL, HUB = "local-dir:", "hf-hub:"
"""How names begin that are no architecture of open_clip: a folder, and a repository."""


class TeacherSettings(Settings):
    """One teacher."""

    model: str = Field(min_length=1, description="Architecture in open_clip, or a folder or repo.")
    pretrained: str = Field("", description="Tag of public weights.")
    checkpoint: str = Field("", description="File of weights; wins over the tag's.")
    weight: float = Field(1.0, gt=0, le=1e6, description="Among several teachers.")
    tuning: Literal["none", "head", "full"] = Field(
        "none", description="Zero-shot, or fine-tuned on the device's own labelled images."
    )
    tuning_epochs: int = Field(10, ge=1, le=1000, description="Passes of fine-tuning.")
    tuning_lr: float | None = Field(
        None, gt=0, le=1, description="Of fine-tuning with Adam; by default 1e-3 head, 1e-5 full."
    )


class TeachersSettings(Settings):
    """The whole file."""

    cache: str = Field("~/.cache/augflower/teachers", description="Folder of cached answers.")
    memory: int = Field(0, ge=0, description="MiB that a teacher may take; 0 takes what is free.")
    prompts: list[str] = Field([], description="Prompt ensemble; {} stands for the class.")
    class_names: dict[str, str] = Field({}, description="How prompts call a class.")
    teacher: list[TeacherSettings] = Field(min_length=1, description="At least one teacher.")


def read_teachers(path: Path) -> TeachersSettings:
    """Read and validate the file; relative paths in it come back absolute.

    Raises
    ------
    SettingsError: there is no such file, it is not TOML, or a value is not what it must be.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"teachers={path}: cannot be read ({error.strerror}); write the file, or leave "
            "'teachers' out of the node config to train without one"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from error
    settings = parse(TeachersSettings, values, f"{path}: ")
    for teacher in settings.teacher:
        if teacher.pretrained and teacher.model.startswith((LOCAL, HUB)):
            raise SettingsError(
                f"{path}: teacher {teacher.model} takes no pretrained: a folder or repository "
                "brings its own weights; leave it out"
            )
    base = path.parent.absolute()
    teachers = [_absolute(teacher, base) for teacher in settings.teacher]
    cache = str(base / Path(settings.cache).expanduser())
    return settings.model_copy(update={"teacher": teachers, "cache": cache})


def _absolute(teacher: TeacherSettings, base: Path) -> TeacherSettings:
    update = {}
    if teacher.checkpoint:
        update["checkpoint"] = str(base / Path(teacher.checkpoint).expanduser())
    if teacher.model.startswith(LOCAL):
        folder = Path(teacher.model.removeprefix(LOCAL)).expanduser()
        update["model"] = f"{LOCAL}{base / folder}"
    return teacher.model_copy(update=update)
