"""The relaxed network: every layer has all heads, and learns from a mixture of local and backpropagated errors.

Shapes used throughout the search:
    alpha (L-1, 2): column 0 weighs the local error, column 1 the backpropagated one, after a softmax over the row
    beta  (L-1, M): column m-1 weighs head Aux m, after a softmax over the row

The mixed gradient (Eqs. 4-6) is written as the paper writes it, layer by layer from the top:

    delta_l = abar_1 * d loss_l / d a_l  +  abar_2 * (delta_{l+1} pulled back through layer l+1)

a chain of vector-Jacobian products in which delta is an ordinary tensor. Nothing is hidden inside the graph, so it
can be differentiated again. `pitfalls` shows three shorter ways to write it, and how each of them goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.func import functional_call

from sedona_nb.errors import SedonaError, choose
from sedona_nb.heads import HEADS, HeadConfig, MixedHead, build_head
from sedona_nb.layered import LayeredNetwork
from sedona_nb.seeds import mix

HEAD_SCALINGS = ("none", "released")
Loss = Callable[[Tensor, Tensor], Tensor]  # (B, classes) scores, (B,) labels -> scalar


class Outputs(NamedTuple):
    """What one forward pass of the relaxed network leaves: L activations and L score matrices (B, classes)."""

    activations: list[Tensor]  # a_1 .. a_L
    scores: list[Tensor]  # of the mixed heads on layers 1 .. L-1, and of the classifier


class RelaxedNetwork(nn.Module):
    """A base network with M heads on each of its layers 1 .. L-1.

    Attributes:
        layers: ModuleList of L layers.
        classifier: the last layer's head.
        heads: ModuleList of L-1 `MixedHead`.
    """

    def __init__(self, network: LayeredNetwork, heads: list[MixedHead]):
        super().__init__()
        self.layers = network.layers
        self.classifier = network.classifier
        self.heads = nn.ModuleList(heads)

    @property
    def num_layers(self) -> int:
        """L: alpha and beta have L-1 rows."""
        return len(self.layers)

    @property
    def num_heads(self) -> int:
        """M: beta has M columns."""
        return len(self.heads[0].heads)

    def forward(self, images: Tensor, mixtures: Tensor | None, head_scales: Tensor | None = None) -> Outputs:
        """Forward pass under softmaxed `mixtures` (L-1, M); None leaves the heads out, only the classifier speaks.

        `head_scales` (L-1,) repeats a trick of the released code: scores s * head(a / s).
        """
        activations, scores, a = [], [], images
        for index, layer in enumerate(self.layers):
            a = layer(a)
            activations.append(a)
            if mixtures is not None and index < len(self.heads):
                if head_scales is None:
                    scores.append(self.heads[index](a, mixtures[index]))
                else:
                    scale = head_scales[index]
                    scores.append(scale * self.heads[index](a / scale, mixtures[index]))
        return Outputs(activations, [*scores, self.classifier(a)])


def relax(
    network: LayeredNetwork,
    num_classes: int,
    width: float,
    head_names: tuple[str, ...] = HEADS,
    config: HeadConfig | None = None,
    seed: int | None = None,
) -> RelaxedNetwork:
    """Attach every head of `head_names` to every layer but the last (Section 3.2).

    Args:
        network: the base network; its layers are used, not copied.
        num_classes: class scores of each head.
        width: width factor of the heads' last convolution, the base network's.
        head_names: the pool; M = 4 in the paper.
        config: readings of Table 9 (`heads.HeadConfig`).
        seed: initialise the heads from this seed.

    Raises:
        SedonaError: unknown head or option, or a network of one layer, which leaves nothing to decide.
    """
    if network.num_layers < 2:
        raise SedonaError("a network of one layer has no cut point; at least 2 layers are needed")
    mixed = []
    for index, (channels, size, _) in enumerate(network.cut_shapes[:-1]):
        heads = [
            build_head(
                name,
                channels,
                size,
                num_classes,
                width,
                config,
                seed=None if seed is None else mix(seed, "heads", index * len(head_names) + column),
            )
            for column, name in enumerate(head_names)
        ]
        mixed.append(MixedHead(heads))
    return RelaxedNetwork(network, mixed)


def check_decisions(relaxed: RelaxedNetwork, alpha: Tensor, beta: Tensor) -> None:
    """Check the shapes of alpha and beta against the network.

    Raises:
        SedonaError: another shape than (L-1, 2) and (L-1, M), or numbers that are not finite.
    """
    rows = relaxed.num_layers - 1
    for name, value, columns in (("alpha", alpha, 2), ("beta", beta, relaxed.num_heads)):
        if tuple(value.shape) != (rows, columns):
            raise SedonaError(f"{name} has shape {tuple(value.shape)}; this network needs ({rows}, {columns})")
        if not torch.isfinite(value).all():
            raise SedonaError(f"{name} holds numbers that are not finite")


def forward(
    relaxed: RelaxedNetwork,
    parameters: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    images: Tensor,
    abar: Tensor,
    bbar: Tensor,
    head_scaling: str = "none",
) -> Outputs:
    """`relaxed` applied with the given parameters and buffers instead of its own.

    Args:
        parameters, buffers: by the names of `relaxed.named_parameters()` and `named_buffers()`. BatchNorm writes
            its running statistics into these buffers.
        images: (B, C, H, W).
        abar, bbar: softmax of alpha (L-1, 2) and of beta (L-1, M).
        head_scaling: "none" (paper) or "released": the scores of a head become s * head(a / s) with
            s = 1 / (abar_1 + 1e-5), meant to undo abar_1 for the head's own weights. BatchNorm behind the head's
            first convolution undoes the division, so what is left is a factor s on the scores.
    """
    choose(head_scaling, HEAD_SCALINGS, "head_scaling")
    scales = 1 / (abar[:, 0].detach() + 1e-5) if head_scaling == "released" else None
    return functional_call(relaxed, (dict(parameters), dict(buffers)), (images, bbar, scales))


def local_losses(outputs: Outputs, labels: Tensor, loss: Loss) -> list[Tensor]:
    """The L losses of Eq. 1: one a layer, the classifier's last."""
    return [loss(scores, labels) for scores in outputs.scores]


def mixture_loss(losses: list[Tensor], abar: Tensor) -> Tensor:
    """The scalar sum_l c_l loss_l, c_l = abar_1,l prod_{j<l} abar_2,j, that the released code builds and logs."""
    total = losses[-1]
    for loss, row in zip(reversed(losses[:-1]), abar.flip(0), strict=True):
        total = row[0] * loss + row[1] * total
    return total


def mixed_gradient(
    relaxed: RelaxedNetwork,
    parameters: Mapping[str, Tensor],
    activations: list[Tensor],
    losses: list[Tensor],
    abar: Tensor,
    create_graph: bool = False,
    head_scaling: str = "none",
) -> dict[str, Tensor]:
    """The gradient field of the inner level: Eq. 5 for layers, Eq. 6, unscaled, for heads.

    Args:
        relaxed: gives the names of each layer's and head's parameters.
        parameters: the tensors that were used in the forward pass, by name.
        activations: a_1 .. a_L of that pass.
        losses: loss_1 .. loss_L of that pass.
        abar: softmax(alpha), (L-1, 2).
        create_graph: keep what is needed to differentiate the result (the outer level needs it).
        head_scaling: "none", or "released": the heads' gradients carry abar_1 as well, which the scale on their
            scores was meant to undo.

    Returns:
        one tensor a parameter, by name, in the order of `parameters`.
    """

    def backward(of: Tensor, names: list[str], also: Tensor | None, cotangent: Tensor | None) -> Tensor | None:
        """Pull `cotangent` back through one piece: its parameters' gradients are kept, that of `also` returned."""
        inputs = [parameters[name] for name in names] + ([] if also is None else [also])
        results = grad(of, inputs, cotangent, create_graph=create_graph)
        gradients.update(zip(names, results, strict=False))
        return None if also is None else results[-1]

    gradients: dict[str, Tensor] = {}
    groups = parameter_names(relaxed)
    last = relaxed.num_layers - 1
    delta = backward(losses[last], groups.classifier, activations[last], None)
    for index in range(last, 0, -1):
        backpropagated = backward(activations[index], groups.layers[index], activations[index - 1], delta)
        names = groups.heads[index - 1]
        local = backward(losses[index - 1], names, activations[index - 1], None)
        if head_scaling == "released":
            gradients.update({name: abar[index - 1, 0] * gradients[name] for name in names})
        delta = abar[index - 1, 0] * local + abar[index - 1, 1] * backpropagated
    backward(activations[0], groups.layers[0], None, delta)
    return {name: gradients[name] for name in parameters}


class ParameterNames(NamedTuple):
    """Names of `RelaxedNetwork.named_parameters()`, sorted by what they belong to."""

    layers: list[list[str]]  # L lists
    heads: list[list[str]]  # L-1 lists
    classifier: list[str]


def parameter_names(relaxed: RelaxedNetwork) -> ParameterNames:
    """The names of the parameters of each layer, each layer's heads, and the classifier."""

    def names(module: nn.Module, prefix: str) -> list[str]:
        return [f"{prefix}.{name}" for name, _ in module.named_parameters()]

    return ParameterNames(
        [names(layer, f"layers.{index}") for index, layer in enumerate(relaxed.layers)],
        [names(heads, f"heads.{index}") for index, heads in enumerate(relaxed.heads)],
        names(relaxed.classifier, "classifier"),
    )
