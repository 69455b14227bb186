"""ResNet: one residual block is a layer, the stem being part of the first."""

from __future__ import annotations

from torch import Tensor, nn

from sedona_nb.layered import LayeredNetwork, Shape, conv_bn, scaled

RESNET_DEPTHS = {
    "resnet18": (2, 2, 2, 2),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}
BOTTLENECK_STRIDES = ("3x3", "1x1")


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
