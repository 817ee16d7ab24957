"""The server's shell: settings in, a run folder out; drives any method over any Grid."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

import common.methods
import server_app.methods
from common import registry
from common.backoff import shorten_backoff
from common.config import RunSettings, other_sections, read_run_config, read_section
from common.errors import AugFlowerError, RunError, SettingsError
from common.modelfile import Card
from common.models import FlatModel, build
from server_app.knowledge import KnowledgeSettings, open_knowledge
from server_app.method import Knowledge, Method, MethodSettings, Setup
from server_app.nodes import Nodes, Plan
from server_app.public import PublicData, describe
from server_app.rounds import Rounds
from server_app.runs.folder import RunFolder
from server_app.settings import ServerSettings, read_server_settings

app = ServerApp()

Notice = Callable[[str], None]


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Flower's entry: run with the settings of the run config and of the environment."""
    if threading.current_thread() is threading.main_thread():  # a simulation uses another
        signal.signal(signal.SIGTERM, _stop)
    shorten_backoff()
    run(grid, context.run_config, read_server_settings(), lambda text: print(text, flush=True))


def run(grid: Grid, config: Mapping[str, Any], server: ServerSettings, notice: Notice) -> Path:
    """Run one method to its end; returns the folder of the run.

    Parameters
    ----------
    config: Flower's flat run config.
    notice: receives one line a round, and what else an operator should see.

    Raises
    ------
    AugFlowerError: settings, data or models do not fit, or the fleet is gone. What was reached
        is kept in the run's folder.
    """
    settings, options, transfer = read_settings(config)
    public = describe(settings)
    client_model = FlatModel(
        build(
            settings.model, classes=len(public.classes), channels=settings.data.channels,
            image_size=settings.data.image_size, seed=settings.seed,
        )
    )  # fmt: skip
    initial, buffers = client_model.parameters, client_model.buffers
    knowledge: Knowledge | None = None
    if options.uses_knowledge:
        knowledge = open_knowledge(transfer, server, settings, public, client_model, notice)
    half = registry.load(server_app.methods, settings.method)
    method: Method = half.Server(options, Setup(initial, buffers, settings.seed, knowledge))
    meta = {
        "method": settings.method,
        "settings": dict(sorted(config.items())),
        "seeds": {"run": settings.seed, "data": settings.data.seed},
        "model": {
            "name": settings.model, "parameters": len(initial), "classes": list(public.classes)
        },
        "private_model": knowledge is not None,
        "clients": {"sources": settings.data.sources, "targets": settings.data.targets},
    }  # fmt: skip
    if settings.resume:
        folder = RunFolder.reopen(server.runs, settings.run_name)
        _same_settings(folder, config)
    else:
        folder = RunFolder.create(server.runs, settings.run_name, meta)
    plan = Plan(folder.path.name, len(initial), public.classes, public.digest)
    rounds = Rounds(
        grid, settings, method, contract(settings.method), knowledge,
        Nodes(grid, plan, notice), folder, _card(settings, options, public, folder), notice,
    )  # fmt: skip
    try:
        start = _resume(folder, rounds) if settings.resume else 0
        rounds.start(start)
    except KeyboardInterrupt:
        folder.finish("stopped")
        notice(f"stopped; go on with: augflower resume {folder.path}")
        raise
    except BaseException as error:
        folder.update(error=str(error))
        folder.finish("failed")
        raise
    else:
        folder.finish("finished")
    finally:
        rounds.report()
    return folder.path


def read_settings(
    config: Mapping[str, Any],
) -> tuple[RunSettings, MethodSettings, KnowledgeSettings]:
    """Validate the whole run config: the run's settings, the method's and those of R_h.

    Raises
    ------
    SettingsError: a key or section is unknown, of the wrong type or out of bounds.
    """
    methods = registry.names(server_app.methods)
    sections = {*methods, "knowledge"}
    if unknown := sorted(other_sections(config) - sections):
        raise SettingsError(
            f"unknown section {unknown[0]!r} in the run config; there are "
            + ", ".join(sorted({"data", "evaluation", "round"} | sections))
        )
    settings = read_run_config(config, sections)
    options = {}
    for name in methods:
        # Sections of other methods are checked as well: a typo there is still a typo.
        half = registry.load(server_app.methods, name)
        options[name] = read_section(half.Settings, config, name)
    if settings.method not in options:
        registry.load(server_app.methods, settings.method)
    return settings, options[settings.method], read_section(KnowledgeSettings, config, "knowledge")


def contract(method: str) -> ModuleType | None:
    """The wire contract of a method; none if no client takes part in it."""
    if method in registry.names(common.methods):
        return registry.load(common.methods, method)
    return None


def _card(
    settings: RunSettings, options: MethodSettings, public: PublicData, folder: RunFolder
) -> Card:
    data, judged = settings.data, settings.evaluation
    return Card(
        architecture=settings.model,
        classes=public.classes,
        channels=data.channels,
        image_size=data.image_size,
        mean=public.mean,
        std=public.std,
        alpha=getattr(options, "alpha", judged.alpha),
        steps=judged.steps,
        statistics=judged.statistics,
        method=settings.method,
        run=folder.path.name,
    )


def _same_settings(folder: RunFolder, config: Mapping[str, Any]) -> None:
    """A run goes on with the settings it began with; only its length may change."""
    old = dict(folder.meta["settings"])
    free = {"resume", "rounds", "run-name"}
    for key in sorted(old.keys() | config.keys()):
        if key not in free and old.get(key) != config.get(key):
            raise RunError(
                f"run {folder.path.name!r} began with {key}={old.get(key)!r}, not "
                f"{config.get(key)!r}; a run can be resumed only with its own settings"
            )
    folder.update(status="running", ended=None, settings={**old, "rounds": config["rounds"]})


def _resume(folder: RunFolder, rounds: Rounds) -> int:
    round, groups, notes = folder.load_checkpoint()
    folder.cut_record(round)
    folder.update(resumed_from=f"round {round}")
    rounds.load_state(groups, notes)
    return round + 1


def _stop(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


__all__ = ["AugFlowerError", "app", "contract", "main", "read_settings", "run"]
