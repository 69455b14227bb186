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


def multiply_accumulates(module: nn.Module, input_shape: tuple[int, int, int], norm_operations: int = 0) -> int:
    """Multiply-accumulates of convolutions and linear maps for one picture of `input_shape` (C, H, W).

    `norm_operations` is what an element of a BatchNorm's input counts: 0 by default; 2 (scale and shift) in the
    counter that the paper must have used (see `table1`). ReLU and pooling count nothing.
    Runs on the meta device: no arithmetic, no memory, whatever the width.
    """
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            kernel = layer.kernel_size[0] * layer.kernel_size[1]
            total += output.numel() * layer.in_channels // layer.groups * kernel
        elif isinstance(layer, nn.Linear):
            total += output.numel() * layer.in_features
        elif isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            total += output.numel() * norm_operations

    shadow = _on_meta(module)
    hooks = [part.register_forward_hook(count) for part in shadow.modules()]
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
    third stage (1024 channels, 14x14), and "FLOPs" are multiply-accumulates with two for every element that passes
    a BatchNorm: so counted, every entry of the paper comes out within 0.01, but for PredSim's parameters.
    Their entry (23.48) is that of a prediction head of 1024 inputs, where Appendix D.2 says 2048.
    (Without the BatchNorms PredSim's FLOPs are 23.74 instead of 23.63, and Aux 4's 1.67 instead of 1.68.)

    Returns:
        one row a head: head, parameters, multiply_accumulates, parameters_percent, flops_percent.
    """
    base = build_on_meta(lambda: build_network("resnet101", width=1.0, num_classes=1000, image_size=224))
    base_parameters = parameter_count(base)
    base_operations = multiply_accumulates(base, (3, 224, 224), norm_operations=2)
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
        operations = multiply_accumulates(head, (channels, size, size), norm_operations=2)
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
