"""Base networks as a list of layers (the possible cut points) and a classifier.

`LayeredNetwork.layers` holds the L layers of Section 3.1: one convolution with its normalisation and pooling in a
VGG, one residual block in a ResNet, the stem being part of the first layer. `classifier` is what the paper calls
the final block's auxiliary head. A decoupling may cut behind layers 1 .. L-1.

Where the paper and its released code differ, the paper's reading is the default and the other one a named option:

====================  =======================================  =========================================
option                paper                                    released
====================  =======================================  =========================================
`pool` (VGG)          "before_cut": a layer contains its       "after_cut": pooling opens the next layer,
                      pooling, heads see the pooled map        heads see the map before pooling
`dropout` (VGG)       0.0 (Appendix D.1)                       0.5 twice in the final MLP
====================  =======================================  =========================================

`bottleneck_stride` is "3x3" in both: the paper cites the original ResNet, which strides in the first 1x1
convolution, but only the 3x3 reading reproduces the FLOP column of Table 1. The original is there as "1x1".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sedona_nb.errors import SedonaError, choose

Shape = tuple[int, int, int]  # (C, H, W)

VGG_CHANNELS = {
    "vgg11": (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    "vgg19": (64, 64, "M", 128, 128, "M", *(256,) * 4, "M", *(512,) * 4, "M", *(512,) * 4, "M"),
}
RESNET_DEPTHS = {
    "resnet18": (2, 2, 2, 2),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}
NETWORKS = (*VGG_CHANNELS, *RESNET_DEPTHS)
VARIANTS = ("paper", "released")
POOLS = ("before_cut", "after_cut")
BOTTLENECK_STRIDES = ("3x3", "1x1")


class LayeredNetwork(nn.Module):
    """L layers and a classifier.

    Attributes:
        name: as given to `build_network`.
        layers: ModuleList of L modules, each (B, C, H, W) -> (B, C', H', W').
        classifier: (B, C, H, W) -> (B, classes).
        cut_shapes: (C, H, W) of every layer's output, which is what a head on that layer sees.
    """

    def __init__(self, name: str, layers: list[nn.Module], classifier: nn.Module, cut_shapes: list[Shape]):
        super().__init__()
        self.name = name
        self.layers = nn.ModuleList(layers)
        self.classifier = classifier
        self.cut_shapes = tuple(cut_shapes)

    @property
    def num_layers(self) -> int:
        """L: the number of layers; alpha and beta have L-1 rows."""
        return len(self.layers)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, classes)."""
        activations = images
        for layer in self.layers:
            activations = layer(activations)
        return self.classifier(activations)


def conv_bn(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the map's size (up to its stride), without the bias that BatchNorm would undo."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels)]


class Residual(nn.Module):
    """ReLU(body(x) + shortcut(x)): one residual block, a layer of the search space."""

    def __init__(self, body: nn.Module, shortcut: nn.Module):
        super().__init__()
        self.body = body
        self.shortcut = shortcut
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        return self.relu(self.body(x) + self.shortcut(x))


def basic_block(in_channels: int, planes: int, stride: int) -> Residual:
    """Two 3x3 convolutions (ResNet-18)."""
    body = nn.Sequential(
        *conv_bn(in_channels, planes, 3, stride), nn.ReLU(inplace=True), *conv_bn(planes, planes, 3)
    )
    return Residual(body, _shortcut(in_channels, planes, stride))


def bottleneck_block(in_channels: int, planes: int, stride: int, bottleneck_stride: str = "3x3") -> Residual:
    """1x1, 3x3, 1x1 convolutions with four times as many channels at the end (ResNet-50 and deeper)."""
    first, second = (stride, 1) if bottleneck_stride == "1x1" else (1, stride)
    body = nn.Sequential(
        *conv_bn(in_channels, planes, 1, first),
        nn.ReLU(inplace=True),
        *conv_bn(planes, planes, 3, second),
        nn.ReLU(inplace=True),
        *conv_bn(planes, 4 * planes, 1),
    )
    return Residual(body, _shortcut(in_channels, 4 * planes, stride))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(*conv_bn(in_channels, out_channels, 1, stride))


@dataclass(frozen=True)
class NetworkConfig:
    """A base network as a value: arguments of `build_network` that do not depend on the data."""

    name: str = "vgg19"
    width: float = 0.25  # the paper's on CIFAR-10; 1 on Tiny-ImageNet and ImageNet
    variant: str = "paper"
    pool: str | None = None
    dropout: float | None = None
    bottleneck_stride: str = "3x3"

    def __post_init__(self) -> None:
        choose(self.name, NETWORKS, "network")
        choose(self.variant, VARIANTS, "variant")

    def build(
        self, num_classes: int, image_size: int, in_channels: int = 3, seed: int | None = None
    ) -> LayeredNetwork:
        """The network for pictures of `image_size` and `in_channels`; see `build_network`."""
        return build_network(
            self.name,
            self.width,
            num_classes,
            image_size,
            in_channels,
            self.variant,
            self.pool,
            self.dropout,
            self.bottleneck_stride,
            seed,
        )


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


def build_resnet(
    depths: tuple[int, ...],
    width: float,
    num_classes: int,
    image_size: int,
    in_channels: int = 3,
    bottleneck: bool = True,
    bottleneck_stride: str = "3x3",
    name: str = "resnet",
) -> LayeredNetwork:
    """A ResNet from the number of residual blocks in each stage.

    The stem follows Appendix D.1: pictures up to 32 pixels get a 3x3 convolution of stride 1, larger ones 7x7 of
    stride 2, and only pictures above 64 pixels (ImageNet) the 3x3 max-pooling behind it.
    """
    channels = scaled(64, width)
    kernel, stride = (3, 1) if image_size <= 32 else (7, 2)
    stem: list[nn.Module] = [*conv_bn(in_channels, channels, kernel, stride), nn.ReLU(inplace=True)]
    size = -(-image_size // stride)
    if image_size > 64:
        stem.append(nn.MaxPool2d(3, 2, 1))
        size = -(-size // 2)
    layers: list[nn.Module] = []
    shapes: list[Shape] = []
    for stage, blocks in enumerate(depths):
        planes = scaled(64 * 2**stage, width)
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            if bottleneck:
                layer: nn.Module = bottleneck_block(channels, planes, stride, bottleneck_stride)
            else:
                layer = basic_block(channels, planes, stride)
            layers.append(nn.Sequential(*stem, layer) if not layers else layer)
            channels = 4 * planes if bottleneck else planes
            size = -(-size // stride)
            shapes.append((channels, size, size))
    classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
    return LayeredNetwork(name, layers, classifier, shapes)


def build_network(
    name: str,
    width: float = 0.25,
    num_classes: int = 10,
    image_size: int = 32,
    in_channels: int = 3,
    variant: str = "paper",
    pool: str | None = None,
    dropout: float | None = None,
    bottleneck_stride: str = "3x3",
    seed: int | None = None,
) -> LayeredNetwork:
    """Build one of `NETWORKS` (Appendix D.1); VGG-11 is not in the paper, it serves where VGG-19 is too slow.

    Args:
        name: one of `NETWORKS`.
        width: factor on every channel count; 0.25 on CIFAR-10, 1 on Tiny-ImageNet and ImageNet (Section 4.1).
        num_classes: outputs of the classifier.
        image_size: side of the square pictures, in pixels; decides stem and map sizes.
        in_channels: 3 for colour, 1 for grey pictures.
        variant: "paper" or "released": sets `pool` and `dropout` where they are not given.
        pool: "before_cut" or "after_cut" (VGG only).
        dropout: probability in the final MLP (VGG only).
        bottleneck_stride: "3x3" or "1x1" (ResNet-50 and deeper only).
        seed: initialise from this seed; None leaves PyTorch's own random state to decide.

    Raises:
        SedonaError: unknown name or option, a width that leaves no channel, a picture too small for the network.
    """
    choose(name, NETWORKS, "network")
    choose(variant, VARIANTS, "variant")
    pool = choose(pool or ("before_cut" if variant == "paper" else "after_cut"), POOLS, "pool")
    choose(bottleneck_stride, BOTTLENECK_STRIDES, "bottleneck_stride")
    if not width > 0 or num_classes < 2 or image_size < 4 or in_channels < 1:
        raise SedonaError(
            f"width {width}, num_classes {num_classes}, image_size {image_size}, in_channels {in_channels}: "
            "allowed are a positive width, at least 2 classes, 4 pixels and 1 channel"
        )
    if dropout is None:
        dropout = 0.0 if variant == "paper" else 0.5
    if name in VGG_CHANNELS:
        plan = VGG_CHANNELS[name]
        network = build_vgg(
            plan, width, num_classes, image_size, in_channels, pool=pool, dropout=dropout, name=name
        )
    else:
        network = build_resnet(
            RESNET_DEPTHS[name],
            width,
            num_classes,
            image_size,
            in_channels,
            bottleneck=name != "resnet18",
            bottleneck_stride=bottleneck_stride,
            name=name,
        )
    initialize(network, seed)
    return network


def scaled(channels: int, width: float) -> int:
    """`channels` at full width times `width`, rounded.

    Raises:
        SedonaError: less than one channel would be left.
    """
    count = round(channels * width)
    if count < 1:
        raise SedonaError(
            f"width {width} leaves none of {channels} channels: allowed is at least {1 / channels:g}"
        )
    return count


@torch.no_grad()
def initialize(module: nn.Module, seed: int | None = None) -> None:
    """Kaiming-normal (fan-in) weights and zero biases for every convolution and linear map.

    The paper is silent; the released code does this, and does not zero the last BatchNorm of a residual block.
    With a seed, the weights depend on nothing else that was built or drawn before.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, mode="fan_in", nonlinearity="relu", generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
