"""Where the live page is served, and what it demands before others may see it."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import SettingsError
from server_app.place import Place
from server_app.settings import read_server_settings

TOKEN = "correct-horse-battery"


def test_without_an_address_there_is_no_page() -> None:
    assert read_server_settings({}).watch is None
    assert read_server_settings({"AUGFLOWER_WATCH": ""}).watch is None


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("localhost:1", "localhost", 1),
        ("[::1]:8080", "::1", 8080),
        (" 127.0.0.2:0 ", "127.0.0.2", 0),
    ],
)
def test_loopback_needs_no_token(address: str, host: str, port: int) -> None:
    assert read_server_settings({"AUGFLOWER_WATCH": address}).watch == Place(host, port)


@pytest.mark.parametrize("address", ["0.0.0.0:80", "[::]:80", "10.0.0.7:80", "server.lan:80"])
def test_any_other_host_demands_a_token(address: str) -> None:
    with pytest.raises(SettingsError, match="needs a token"):
        read_server_settings({"AUGFLOWER_WATCH": address})
    with_token = {"AUGFLOWER_WATCH": address, "AUGFLOWER_WATCH_TOKEN": TOKEN}
    place = read_server_settings(with_token).watch
    assert place is not None
    assert (place.token, place.loopback) == (TOKEN, False)


def test_the_token_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    environment = {
        "AUGFLOWER_WATCH": "0.0.0.0:80",
        "AUGFLOWER_WATCH_TOKEN_FILE": str(tmp_path / "token"),
    }
    assert read_server_settings(environment).watch == Place("0.0.0.0", 80, TOKEN)
    with pytest.raises(SettingsError, match="not both"):
        read_server_settings(environment | {"AUGFLOWER_WATCH_TOKEN": TOKEN})


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read"), ("\n", "is empty"), ("secret", "at least")]
)
def test_a_token_file_of_no_use(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "token").write_text(content)
    with pytest.raises(SettingsError, match=message):
        read_server_settings(
            {
                "AUGFLOWER_WATCH": "127.0.0.1:80",
                "AUGFLOWER_WATCH_TOKEN_FILE": str(tmp_path / "token"),
            }
        )


@pytest.mark.parametrize("address", ["8080", ":8080", "localhost", "a:b", "a:65536", "a:-1"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(SettingsError, match="write host:port"):
        read_server_settings({"AUGFLOWER_WATCH": address})


def test_a_token_is_not_printed() -> None:
    assert TOKEN not in repr(Place("0.0.0.0", 80, TOKEN))
