"""VGG with BatchNorm: one convolution with its normalisation and pooling is a layer."""

from __future__ import annotations

from torch import nn

from sedona_nb.errors import SedonaError
from sedona_nb.layered import LayeredNetwork, Shape, conv_bn, scaled

VGG_CHANNELS = {
    "vgg11": (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    "vgg19": (64, 64, "M", 128, 128, "M", *(256,) * 4, "M", *(512,) * 4, "M", *(512,) * 4, "M"),
}
POOLS = ("before_cut", "after_cut")


def build_vgg(
    plan: tuple[int | str, ...],
    width: float,
    num_classes: int,
    image_size: int,
    in_channels: int = 3,
    hidden: int = 4096,
    pool: str = "before_cut",
    dropout: float = 0.0,
    name: str = "vgg",
) -> LayeredNetwork:
    """A VGG with BatchNorm from a plan of channel counts at full width and "M" for max-pooling.

    `hidden` is the width of the two hidden layers of the final MLP at full width (1024 at 0.25x).
    Small plans make the toys of lessons and tests; `build_network` builds the paper's.
    """
    layers: list[list[nn.Module]] = []
    shapes: list[Shape] = []
    channels, size, pending = in_channels, image_size, []
    for item in plan:
        if item == "M":
            if size < 2:
                halvings = plan.count("M")
                raise SedonaError(
                    f"{name} halves the picture {halvings} times: image_size must be at least {2**halvings}, "
                    f"not {image_size}"
                )
            size //= 2
            if pool == "before_cut":
                layers[-1].append(nn.MaxPool2d(2))
                shapes[-1] = (channels, size, size)
            else:
                pending = [nn.MaxPool2d(2)]
            continue
        out_channels = scaled(item, width)
        layers.append([*pending, *conv_bn(channels, out_channels, 3), nn.ReLU(inplace=True)])
        channels, pending = out_channels, []
        shapes.append((channels, size, size))
    side = min(size, 7)  # the original pools to 7x7 before its MLP; maps of small pictures are smaller anyway
    units = scaled(hidden, width)
    classifier = [
        *pending,
        *([nn.AdaptiveAvgPool2d(7)] if size > 7 else []),
        nn.Flatten(),
        nn.Linear(channels * side * side, units),
        nn.ReLU(inplace=True),
        *([nn.Dropout(dropout)] if dropout else []),
        nn.Linear(units, units),
        nn.ReLU(inplace=True),
        *([nn.Dropout(dropout)] if dropout else []),
        nn.Linear(units, num_classes),
    ]
    return LayeredNetwork(name, [nn.Sequential(*layer) for layer in layers], nn.Sequential(*classifier), shapes)
