"""Feedback alignment (Lillicrap et al., 2014): errors travel backwards through fixed random weights.

The forward pass and the gradient of each layer's own weights are backpropagation's. Only where an error goes on to
the layer below, a fixed matrix B takes the place of the transpose of the weights W, so that no weight has to be
known in two places. BatchNorm, pooling and activations are differentiated as usual; so are shortcuts of a ResNet,
whose 1x1 convolutions are layers like others. B is drawn like the weights a network begins with, once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sedona_nb.errors import SedonaError
from sedona_nb.seeds import torch_generator


class AlignedConv2d(nn.Conv2d):
    """A convolution whose backward pass to its input uses `backward_weight`, a buffer of the weight's shape."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W'), or one picture without B."""
        if x.dim() == 3:
            return self.forward(x[None])[0]
        return _Convolution.apply(
            x, self.weight, self.bias, self.backward_weight, self.stride, self.padding, self.dilation, self.groups
        )


class AlignedLinear(nn.Linear):
    """A linear map whose backward pass to its input uses `backward_weight`, a buffer of the weight's shape."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return _Linear.apply(x, self.weight, self.bias, self.backward_weight)


ALIGNED = {nn.Conv2d: AlignedConv2d, nn.Linear: AlignedLinear}


def align(network: nn.Module, seed: int) -> nn.Module:
    """Give every convolution and linear map of `network` fixed backward weights; weights and names stay.

    Args:
        network: changed in place; it keeps its parameters.
        seed: of the backward weights; a layer's depend on the seed and its name alone.

    Returns:
        `network`.

    Raises:
        SedonaError: it is aligned already, or a convolution pads with other things than a number of zeros. Then
            nothing is changed.
    """
    for name, part in network.named_modules():
        if isinstance(part, AlignedConv2d | AlignedLinear):
            raise SedonaError(f"{name or 'the network'} has backward weights already; allowed: to align it once")
        if type(part) is nn.Conv2d and (part.padding_mode != "zeros" or isinstance(part.padding, str)):
            pads = f"padding {part.padding!r}, mode {part.padding_mode!r}"
            raise SedonaError(f"{name or 'the network'}: {pads}; allowed: a number of zeros")
    for name, part in network.named_modules():
        if type(part) in ALIGNED:
            drawn = torch.randn(part.weight.shape, generator=torch_generator(seed, "backward weights", name))
            fixed = drawn * (2 / part.weight[0].numel()) ** 0.5  # Kaiming, as `layered.initialize`
            part.register_buffer("backward_weight", fixed.to(part.weight))
            part.__class__ = ALIGNED[type(part)]
    return network


class _Convolution(torch.autograd.Function):
    """conv2d, but for the gradient of its input."""

    @staticmethod
    def forward(ctx, x, weight, bias, backward_weight, *how):
        ctx.save_for_backward(x, weight, backward_weight)
        ctx.how, ctx.biased = how, bias is not None
        return F.conv2d(x, weight, bias, *how)

    @staticmethod
    def backward(ctx, error):
        x, weight, backward_weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.how

        def back(kernel: Tensor, *wanted: bool) -> tuple[Tensor | None, ...]:
            kind = error.dtype
            sizes = [kernel.shape[0]] if ctx.biased else None
            how = (sizes, stride, padding, dilation, False, [0, 0], groups)
            return torch.ops.aten.convolution_backward(error, x.to(kind), kernel.to(kind), *how, list(wanted))

        to_input = back(backward_weight, True, False, False)[0] if ctx.needs_input_grad[0] else None
        _, to_weight, to_bias = back(weight, False, True, ctx.biased)
        to_input = None if to_input is None else to_input.to(x.dtype)
        to_bias = to_bias.to(weight.dtype) if ctx.biased else None
        return to_input, to_weight.to(weight.dtype), to_bias, None, None, None, None, None


class _Linear(torch.autograd.Function):
    """linear, but for the gradient of its input."""

    @staticmethod
    def forward(ctx, x, weight, bias, backward_weight):
        ctx.save_for_backward(x, weight, backward_weight)
        ctx.biased = bias is not None
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, error):
        x, weight, backward_weight = ctx.saved_tensors
        kind = error.dtype
        to_input = (error @ backward_weight.to(kind)).to(x.dtype) if ctx.needs_input_grad[0] else None
        rows = error.reshape(-1, error.shape[-1])
        to_weight = (rows.T @ x.to(kind).reshape(-1, x.shape[-1])).to(weight.dtype)
        to_bias = rows.sum(0).to(weight.dtype) if ctx.biased else None
        return to_input, to_weight, to_bias, None
