"""Networks as a list of layers (the possible cut points) and a classifier, and what every one of them is made of.

`LayeredNetwork.layers` holds the L layers of Section 3.1: one convolution with its normalisation and pooling in a
VGG, one residual block in a ResNet, the stem being part of the first layer. `classifier` is what the paper calls
the final block's auxiliary head. A decoupling may cut behind layers 1 .. L-1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sedona_nb.errors import SedonaError

Shape = tuple[int, int, int]  # (C, H, W)


class LayeredNetwork(nn.Module):
    """L layers and a classifier.

    Attributes:
        name: as given to `build_network`.
        layers: ModuleList of L modules, each (B, C, H, W) -> (B, C', H', W').
        classifier: (B, C, H, W) -> (B, classes).
        cut_shapes: (C, H, W) of every layer's output, which is what a head on that layer sees.
        per_position: every position has a label of its own, and scores are (B H W, classes): sequences.
    """

    def __init__(
        self,
        name: str,
        layers: list[nn.Module],
        classifier: nn.Module,
        cut_shapes: list[Shape],
        per_position: bool = False,
    ):
        super().__init__()
        self.name = name
        self.layers = nn.ModuleList(layers)
        self.classifier = classifier
        self.cut_shapes = tuple(cut_shapes)
        self.per_position = per_position

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
        if isinstance(part, nn.Conv2d | nn.Linear) and not part.weight.is_meta:  # which has no numbers to draw
            nn.init.kaiming_normal_(part.weight, mode="fan_in", nonlinearity="relu", generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
