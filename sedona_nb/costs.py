"""Parameters and multiply-accumulates of networks and heads, counted on shapes alone; Table 1."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from sedona_nb.heads import HEADS, build_head
from sedona_nb.networks import build_network


def parameter_count(module: nn.Module) -> int:
    """Number of trainable numbers in `module`."""
    return sum(parameter.numel() for parameter in module.parameters())


def multiply_accumulates(
    module: nn.Module,
    input_shape: tuple[int, int, int],
    norm_operations: int = 0,
    other_operations: int = 0,
) -> int:
    """Multiply-accumulates of convolutions and linear maps for one picture of `input_shape` (C, H, W).

    An element that enters a BatchNorm counts `norm_operations`, one that enters a ReLU or a pooling
    `other_operations`: 0 by default, 1 in a counter that fits the paper (see `table1`).
    Runs on the meta device: no arithmetic, no memory, whatever the width.
    """

    def count(layer: nn.Module, x: Tensor, y: Tensor) -> int:
        if isinstance(layer, nn.Conv2d):
            return y.numel() * layer.in_channels // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]
        if isinstance(layer, nn.Linear):
            return y.numel() * layer.in_features
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            return x.numel() * norm_operations
        return x.numel() * other_operations

    return _sum_over_parts(module, input_shape, count)


def traffic(module: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Numbers of one picture's maps that a device reads and writes: each part reads its input, writes its output.

    Where arithmetic is cheap, as in half precision on a GPU, this decides the time. Weights are not counted: they
    are read once for a whole batch.
    """
    return _sum_over_parts(module, input_shape, lambda _, x, y: x.numel() + y.numel())


PARTS = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.BatchNorm1d, nn.ReLU, nn.MaxPool2d, nn.AdaptiveAvgPool2d)


def _sum_over_parts(
    module: nn.Module, input_shape: tuple[int, int, int], count: Callable[[nn.Module, Tensor, Tensor], int]
) -> int:
    """`count(part, input, output)` over all `PARTS` that one picture passes."""
    total = 0

    def add(part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(part, PARTS):
            total += count(part, inputs[0], output)

    shadow = _on_meta(module)
    hooks = [part.register_forward_hook(add) for part in shadow.modules()]
    try:
        shadow.eval()(torch.empty(1, *input_shape, device="meta"))
        if hasattr(shadow, "similarity_features"):  # PredSim's second head is not on the way to the scores
            shadow.similarity_features(torch.empty(1, *input_shape, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return total


def _on_meta(module: nn.Module) -> nn.Module:
    """A copy of `module` without numbers."""
    return deepcopy(module).to("meta")


def build_on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """Call `build` so that nothing is allocated: full-width ImageNet networks cost no memory to count."""
    with torch.device("meta"):
        return build()


def table1() -> list[dict[str, float | str]]:
    """Table 1: each head's parameters and multiply-accumulates in percent of ResNet-101's on ImageNet.

    The table does not say on which layer the head sits, nor how it counts. It is one head behind a layer of the
    third stage (1024 channels, 14x14), and "FLOPs" are multiply-accumulates plus one operation for every element
    that enters a BatchNorm, a ReLU or a pooling: so counted, all twelve entries come out to the last digit, with a
    PredSim head that predicts from 1024 numbers, where Appendix D.2 says 2048. (Other prices of the cheap
    layers fit as well; notebook 10 tries 27. Counting nothing for them does not: Aux 4 and PredSim are off.)

    Returns:
        one row a head: head, parameters, multiply_accumulates, parameters_percent, flops_percent.
    """
    base = build_on_meta(lambda: build_network("resnet101", width=1.0, num_classes=1000, image_size=224))
    base_parameters = parameter_count(base)
    base_operations = multiply_accumulates(base, (3, 224, 224), norm_operations=1, other_operations=1)
    channels, size, _ = base.cut_shapes[10]  # any layer of the third stage
    rows: list[dict[str, float | str]] = []
    for label, name, options in (
        ("mlp-sr", "mlp-sr", {}),
        ("predsim", "predsim", {}),
        ("predsim-1024", "predsim", {"predsim_features": 1024}),
        *((name, name, {}) for name in HEADS),
    ):
        head = build_on_meta(lambda n=name, o=options: build_head(n, channels, size, 1000, 1.0, **o))
        parameters = parameter_count(head)
        operations = multiply_accumulates(head, (channels, size, size), norm_operations=1, other_operations=1)
        rows.append(
            {
                "head": label,
                "parameters": parameters,
                "multiply_accumulates": operations,
                "parameters_percent": 100 * parameters / base_parameters,
                "flops_percent": 100 * operations / base_operations,
            }
        )
    return rows
