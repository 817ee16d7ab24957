"""The templates of pages: everything that they show is escaped, and nothing may be missing."""

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

FOLDER = Path(__file__).parent / "page"


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
