"""Residual networks for small images: three stages of basic blocks, widths as in "8x4".

He et al., "Deep Residual Learning for Image Recognition" (2016), section 4.2; the wide "x4"
variants are those of the knowledge-distillation literature (Tian et al., 2020). A depth of
6n + 2 has n blocks a stage.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _norm(kind: str, width: int) -> nn.Module:
    return nn.BatchNorm2d(width) if kind == "batch" else nn.GroupNorm(min(8, width), width)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            _norm(norm, outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            _norm(norm, outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), _norm(norm, outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet(
    classes: int, channels: int, depth: int, widths: tuple[int, int, int, int], norm: str = "batch"
) -> nn.Sequential:
    """A residual network of ``depth`` = 6n + 2 layers; ``widths`` are those of stem and stages."""
    blocks = (depth - 2) // 6
    layers: list[nn.Module] = [
        nn.Conv2d(channels, widths[0], 3, padding=1, bias=False),
        _norm(norm, widths[0]),
        nn.ReLU(),
    ]
    inputs = widths[0]
    for stage, width in enumerate(widths[1:]):
        for block in range(blocks):
            layers.append(Block(inputs, width, 2 if stage and not block else 1, norm))
            inputs = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    return nn.Sequential(*layers)
