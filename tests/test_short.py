"""Methods stay short: what all of them need is in the shell, and a file is its mathematics."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

import pytest

import server_app.methods
from common import registry
from tests.conftest import ROOT

SIDES = ("common", "client_app", "server_app")
METHODS = registry.names(server_app.methods)
MOST = {"fedavg": 60, "fedprox": 60, "per_fedavg": 100, "fml": 100}
"""Lines of code of a simple method's three files together."""

FIRST = ("augfl", "fed_lpfm", "fedavg", "fedprox", "fml", "per_fedavg", "transfer")
ALL = 460
"""Lines of code of their server halves together."""

LONGEST = 200
"""Lines of code of any server half."""


def code_lines(text: str) -> int:
    """Lines without blank ones, comments and docstrings."""
    lines: set[int] = set()
    blank = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
             tokenize.ENDMARKER}  # fmt: skip
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in blank:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            assert isinstance(node.value.value, str)
            assert node.end_lineno is not None
            lines -= {*range(node.lineno, node.end_lineno + 1)}
    return len(lines)


def length(side: str, method: str) -> int:
    path = Path(ROOT / side / "methods" / f"{method}.py")
    return code_lines(path.read_text()) if path.exists() else 0


def test_what_counts_as_code():
    text = '"""Doc.\n\nMore.\n"""\n\n# why\nx = (\n    1,  # one\n)\n\ndef f():\n    """Doc."""\n'
    assert code_lines(text + '    return """a\nb"""\n') == 3 + 1 + 2


@pytest.mark.parametrize("method", sorted(MOST))
def test_a_simple_method_is_short(method: str):
    assert sum(length(side, method) for side in SIDES) <= MOST[method]


def test_server_halves_together_are_short():
    assert sum(length("server_app", method) for method in FIRST) <= ALL


@pytest.mark.parametrize("method", METHODS)
def test_no_server_half_is_long(method: str):
    assert length("server_app", method) <= LONGEST
