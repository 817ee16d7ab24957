"""The templates of pages: everything that they show is escaped, and nothing may be missing."""

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from common.files import write_atomic

FOLDER = Path(__file__).parent / "page"
LIBRARY = "echarts-6.1.0.js"
"""Name of the script that pages share; with its version, for old pages need the old one."""


@cache
def environment(*more: Path) -> Environment:
    """The templates of the report, and those in other folders."""
    return Environment(
        loader=FileSystemLoader([FOLDER, *more]),
        autoescape=select_autoescape(default_for_string=True, default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def library() -> Markup:
    """The script that draws charts: Apache ECharts 6.1.0, its build of common charts."""
    return Markup((FOLDER / "echarts.min.js").read_text(encoding="utf-8"))


def share_library(folder: Path) -> Path:
    """The script that draws charts as a file in ``folder``, written where it is not there yet."""
    path, script = folder / LIBRARY, str(library())
    if not path.is_file() or path.stat().st_size != len(script.encode()):
        write_atomic(path, script)
    return path
