"""A generator of images: trained on the server's own, or brought; it never leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message
from flwr.common.serde import message_to_proto
from torch import Tensor, nn
from typer.testing import CliRunner

from client_app.app import app as devices
from common.data.load import load
from common.errors import ModelError, SettingsError
from common.models.preprocessing import Preprocessing
from deploy.cli import app
from deploy.pretrain import pretrain_generator
from deploy.run_config import default_config
from deploy.simulate import node_configs
from server_app.app import read_settings
from server_app.private.generator import Decoder, load_generator, pretrain_decoder, save_generator
from server_app.settings import ServerSettings, read_server_settings
from server_app.transport.in_process import InProcessGrid
from tests.conftest import SMALL

PLAIN = Preprocessing(1, 8, (0.0,), (1.0,))
Run = Callable[..., Path]


def test_it_learns_what_images_look_like():
    pixels = torch.from_numpy(load("digits").pixels(np.arange(600)))
    losses = [
        pretrain_decoder(pixels, noise=8, epochs=epochs, batch_size=32, rate=0.003, seed=0)
        for epochs in (1, 15)
    ]
    assert losses[1][1] < 0.9 * losses[0][1]
    with torch.no_grad():
        made = losses[1][0].synthesis(
            torch.randn(500, 8, generator=torch.Generator().manual_seed(1))
        )
    real, flat = (pixels.float() / 255), made.mean(0) - (pixels.float() / 255).mean(0)
    spread = (real - real.mean(0)).square().mean().sqrt()
    assert flat.square().mean().sqrt() < 0.3 * spread, "the mean image"
    assert made.std(0).mean() > 0.4 * real.std(0).mean(), "images differ"


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (14, 1), (28, 3), (5, 1)])
def test_a_folder_gives_back_the_same_generator(size: int, channels: int, tmp_path: Path):
    decoder = Decoder(6, channels, size)
    wanted = Preprocessing(channels, size, (0.5,) * channels, (0.25,) * channels)
    save_generator(tmp_path / "g", decoder, wanted)
    found = load_generator(tmp_path / "g", wanted)
    noise = torch.randn(3, 6)
    assert found.noise == 6
    latents = found.latents(noise)
    images = found.images(latents)
    assert images.shape == (3, channels, size, size)
    with torch.no_grad():
        expected = (decoder.synthesis(noise) - 0.5) / 0.25
    torch.testing.assert_close(images, expected, atol=0.01, rtol=0)


class Brought(nn.Module):
    """A user's own: latents of 5 numbers for noise of 3, images of 16x16 pixels in colour."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.noise, self.factor = 3, factor
        self.first = nn.Linear(3, 5)

    def forward(self, noise: Tensor) -> Tensor:
        return self.synthesis(self.mapping(noise))

    @torch.jit.export
    def mapping(self, noise: Tensor) -> Tensor:
        return self.first(noise)  # type: ignore[no-any-return]

    @torch.jit.export
    def synthesis(self, latents: Tensor) -> Tensor:
        return self.factor * torch.ones(latents.shape[0], 3, 16, 16)


def test_a_user_brings_one_in_torchscript(tmp_path: Path):
    torch.jit.script(Brought(0.5)).save(str(tmp_path / "own.pt"))  # type: ignore[no-untyped-call]
    found = load_generator(tmp_path / "own.pt", PLAIN)
    assert (found.noise, found.latents(torch.zeros(2, 3)).shape) == (3, (2, 5))
    images = found.images(torch.zeros(2, 5))
    assert images.shape == (2, 1, 8, 8), "brought to the run's size and colour"
    torch.testing.assert_close(images, torch.full_like(images, 0.5), atol=0.01, rtol=0)


def test_what_cannot_generate_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match="no generator in"):
        load_generator(tmp_path / "none", PLAIN)
    (tmp_path / "text.pt").write_text("text")
    with pytest.raises(ModelError, match="is no TorchScript file"):
        load_generator(tmp_path / "text.pt", PLAIN)
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "layer.pt"))  # type: ignore[no-untyped-call]
    with pytest.raises(ModelError, match="a generator has mapping"):
        load_generator(tmp_path / "layer.pt", PLAIN)
    torch.jit.script(Brought(2.0)).save(str(tmp_path / "bright.pt"))  # type: ignore[no-untyped-call]
    with pytest.raises(ModelError, match="from 0 to 1"):
        load_generator(tmp_path / "bright.pt", PLAIN)
    save_generator(tmp_path / "g", Decoder(4, 1, 8), PLAIN)
    weights = tmp_path / "g" / "generator.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelError, match="is not the file"):
        load_generator(tmp_path / "g", PLAIN)


def test_a_method_that_needs_one_says_so(small_run: Run, tmp_path: Path):
    with pytest.raises(SettingsError, match="AUGFLOWER_GENERATOR"):
        small_run("fedktl", server=ServerSettings(runs=tmp_path))
    assert read_server_settings({"AUGFLOWER_GENERATOR": "g"}).generator == "g"


def test_one_that_has_seen_the_clients_images_is_refused(small_run: Run, tmp_path: Path):
    pretrain_generator(tmp_path / "g", {}, epochs=1)
    server = ServerSettings(runs=tmp_path, generator=str(tmp_path / "g"))
    small_run("fedktl", {"rounds": 1, "data.sources": 6, "data.targets": 18}, server=server)
    with pytest.raises(SettingsError, match="the generator was trained on"):
        small_run("fedktl", {"data.seed": 5}, server=server)
    with pytest.raises(ModelError, match="already holds a generator"):
        pretrain_generator(tmp_path / "g", {}, epochs=1)


def test_the_command(tmp_path: Path):
    arguments = ["pretrain", str(tmp_path / "g"), "--generator", "--epochs", "1"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "AUGFLOWER_GENERATOR" in done.output
    assert load_generator(tmp_path / "g", PLAIN).images(torch.zeros(1, 64)).shape == (1, 1, 8, 8)


def test_it_is_in_nothing_that_is_sent(small_run: Run, tmp_path: Path):
    class Listening(InProcessGrid):
        sent: list[bytes] = []  # noqa: RUF012

        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            messages = list(messages)
            self.sent += [message_to_proto(message).SerializeToString() for message in messages]
            return super().push_messages(messages)

    mark = 1234.5678
    decoder = Decoder(4, 1, 8)
    with torch.no_grad():
        decoder.first.weight.fill_(mark)
    save_generator(tmp_path / "the-generators-folder", decoder, PLAIN)
    config: dict[str, Any] = default_config() | SMALL | {"method": "fedktl", "run-name": "canary"}
    grid = Listening(devices, node_configs(read_settings(config)[0].data), config)
    server = ServerSettings(runs=tmp_path, generator=str(tmp_path / "the-generators-folder"))
    small_run("fedktl", {"run-name": "canary"}, grid=grid, server=server)
    assert len(grid.sent) > 10
    digits = load("digits")  # its images are white or black: these are sent
    black = np.float32(-digits.mean[0] / digits.std[0]).tobytes() * 3
    assert any(black in message for message in grid.sent)
    for kind in ("<f2", "<f4", "<f8"):
        planted = np.full(3, mark, kind).tobytes()
        assert not any(planted in message for message in grid.sent)
    assert not any(b"the-generators-folder" in message for message in grid.sent)
