"""The health check of the images."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

CHECK = Path(__file__).parents[2] / "images" / "healthy.py"


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        ill = self.path == "/ill"
        self.send_response(503 if ill else 200)
        self.end_headers()
        self.wfile.write(b"the last look is 99 s ago\n" if ill else b"ok\n")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize(
    ("path", "code", "said"),
    [("", 0, ""), ("/health", 0, ""), ("/ill", 1, "the last look is 99 s ago\n")],
)
def test_a_page_that_is_not_well_is_shown(port: int, path: str, code: int, said: str):
    command = [sys.executable, "-IS", str(CHECK), f"127.0.0.1:{port}{path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, said)
