"""The foundation models of a device that distils: their file, their library, their weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import ModelError, SettingsError
from deploy.doctor.finding import Finding, error, ok, skipped, warning

if TYPE_CHECKING:
    from client_app.teachers.settings import TeacherSettings

CHECK = "teacher"


def check_teachers(path: Path | None) -> list[Finding]:
    """Whether the teachers of a device could be loaded, without loading or fetching them.

    Parameters
    ----------
    path: the device's teachers file; None when it has none.
    """
    # Imported late: they need torch, and most devices have no teacher.
    from client_app.teachers.prompts import texts
    from client_app.teachers.settings import read_teachers

    if path is None:
        return [skipped(CHECK, "no teacher is configured")]
    if importlib.util.find_spec("open_clip") is None:
        return [error(CHECK, "open_clip is not installed", "pip install 'augflower[clip]'")]
    try:
        settings = read_teachers(path)
        texts("", ("one", "another"), settings.prompts)
    except SettingsError as problem:
        return [error(CHECK, str(problem), f"correct {path}")]
    found = [_check(teacher, settings.memory, path) for teacher in settings.teacher]
    return _check_cache(Path(settings.cache), path) + found


def _check_cache(folder: Path, path: Path) -> list[Finding]:
    """Whether answers can be kept; folders made to find out are removed again."""
    from client_app.teachers.cache import check_folder

    try:
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        check_folder(folder, path)
        for place in made:
            place.rmdir()
    except (SettingsError, OSError) as problem:
        return [error(CHECK, str(problem), f"correct cache in {path}, or chown the folder")]
    return []


def _check(teacher: TeacherSettings, limit: int, path: Path) -> Finding:
    from client_app.teachers.memory_budget import MIB, NotEnoughMemory, check_memory
    from client_app.teachers.settings import LOCAL
    from client_app.teachers.source import describe, doubt
    from client_app.teachers.weights import check_file, find_weights

    try:
        source = describe(teacher)
        check_memory(source.model, source.bytes_needed(), limit * MIB)
        if not teacher.checkpoint and not source.model.startswith(LOCAL):
            return warning(
                CHECK,
                f"{source.model} {teacher.pretrained}: its weights are fetched before its first "
                "run, if they are not here",
                f"without a network, bring the file and name it as checkpoint in {path}",
            )
        weights = find_weights(source)
        check_file(source, weights)
    except NotEnoughMemory as problem:
        return warning(CHECK, f"{problem}; the device trains without it", "see above")
    except ModelError as problem:
        return error(CHECK, str(problem), f"correct {path}")
    if problem_ahead := doubt(source):
        return warning(CHECK, problem_ahead, f"give pretrained beside checkpoint in {path}")
    return ok(CHECK, f"{source.model}, {weights.stat().st_size / MIB:.1f} MiB of weights")
