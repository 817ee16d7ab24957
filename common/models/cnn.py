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


def cnn_5x5(classes: int, channels: int, image_size: int) -> nn.Sequential:
    """The "4-layer CNN" of PFLlib (Zhang et al., JMLR 26(50), 2025), after McMahan et al. (2017).

    Two convolutions 5x5 without padding, of 32 and 64 channels, each with a ReLU and a 2x2
    max-pool; then 512 features and the classes. It has 582,026 parameters for 28 x 28 pixels of
    one channel and 10 classes, 878,538 for 32 x 32 of three.
    """
    size = ((image_size - 4) // 2 - 4) // 2
    return nn.Sequential(
        nn.Conv2d(channels, 32, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * size * size, 512),
        nn.ReLU(),
        nn.Linear(512, classes),
    )
