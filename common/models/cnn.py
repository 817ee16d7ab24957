"""Small convolutional networks without normalisation layers."""

from torch import nn


def cnn(
    classes: int,
    channels: int,
    image_size: int,
    widths: tuple[int, ...],
    activation: type[nn.Module],
) -> nn.Sequential:
    """Convolutions 3x3, each with an activation and a 2x2 max-pool, then one linear layer.

    Parameters
    ----------
    widths: output channels of each convolution; the image shrinks by 2 after each.
    """
    layers: list[nn.Module] = []
    size, inputs = image_size, channels
    for width in widths:
        layers += [nn.Conv2d(inputs, width, 3, padding=1), activation(), nn.MaxPool2d(2)]
        size, inputs = size // 2, width
    layers += [nn.Flatten(), nn.Linear(inputs * size * size, classes)]
    return nn.Sequential(*layers)
