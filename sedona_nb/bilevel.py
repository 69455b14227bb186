"""The bilevel problem of Section 3.3: T inner steps on the weights, and the gradient of what comes out of them.

Inner level (Eqs. 5-6), SGD with momentum and weight decay as torch.optim.SGD does it:

    u <- momentum * u + G(w, alpha, beta; batch) + weight_decay * w,        w <- w - lr * u

with G the mixed gradient (`relaxed.mixed_gradient`). Outer level (Eq. 7): d outer_loss / d (alpha, beta), where

    objective "validation" (the paper):  outer_loss = loss of the classifier at w_T on a validation batch
    objective "released" (what the released code differentiates): outer_loss = the mixture of all local losses at
        w_{T-1} on the last training batch, sum_l abar_1,l prod_{j<l} abar_2,j loss_l

Two backends give the same number: "functional" (torch.func, the reference) and "higher" (the library the paper
used, kept as an oracle). Validation uses batch statistics in BatchNorm; no running statistics are touched.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sedona_nb import relaxed as relax
from sedona_nb.errors import SedonaError, choose
from sedona_nb.losses import cross_entropy
from sedona_nb.relaxed import RelaxedNetwork

BACKENDS = ("functional", "higher")
OBJECTIVES = ("validation", "released")
Batch = tuple[Tensor, Tensor]  # images (B, C, H, W), labels (B,)
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class InnerConfig:
    """The inner level: SGD on the network's and the heads' weights (Appendix E.1)."""

    steps: int = 5  # T
    batch_size: int = 128
    lr: float = 0.1
    lr_min: float = 0.001  # end of the cosine
    momentum: float = 0.9
    weight_decay: float = 1e-3  # released code: 1e-4
    smoothing: float = 0.1
    convention: str = "uniform"  # released code: "others"
    head_scaling: str = "none"  # released code: "released"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise SedonaError(f"{self.steps} inner steps: at least 1 is needed")

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The loss of every layer and of the classifier: (B, classes), (B,) -> scalar."""
        return cross_entropy(scores, labels, self.smoothing, self.convention)


class Weights(NamedTuple):
    """Parameters, their momentum buffers, and BatchNorm's running statistics, by name."""

    parameters: Tensors
    momenta: Tensors
    buffers: Tensors


class Hypergradient(NamedTuple):
    """d outer_loss / d alpha (L-1, 2), d outer_loss / d beta (L-1, M), and the outer loss itself."""

    alpha: Tensor
    beta: Tensor
    outer_loss: float


def initial_weights(relaxed: RelaxedNetwork) -> Weights:
    """Copies of the network's present parameters and buffers, with momenta of zero."""
    parameters = {name: value.detach().clone() for name, value in relaxed.named_parameters()}
    momenta = {name: torch.zeros_like(value) for name, value in parameters.items()}
    return Weights(parameters, momenta, {name: value.clone() for name, value in relaxed.named_buffers()})


def inner_step(
    relaxed: RelaxedNetwork,
    weights: Weights,
    abar: Tensor,
    bbar: Tensor,
    batch: Batch,
    lr: float,
    inner: InnerConfig,
    create_graph: bool = False,
) -> tuple[Weights, Tensor]:
    """One step of Eqs. 5-6.

    Args:
        relaxed: the network's structure; its own weights are not read.
        weights: where to start; parameters must require gradients. BatchNorm writes its running statistics into
            `weights.buffers`, nothing else of it changes.
        abar, bbar: softmax of alpha (L-1, 2) and beta (L-1, M).
        batch: images and labels.
        lr: learning rate.
        create_graph: keep the step differentiable.

    Returns:
        the new weights and the L losses before the step, detached, (L,).

    Raises:
        SedonaError: a loss that is not finite (which layer).
    """
    images, labels = batch
    outputs = relax.forward(relaxed, weights.parameters, weights.buffers, images, abar, bbar, inner.head_scaling)
    losses = relax.local_losses(outputs, labels, inner.loss)
    gradient = relax.mixed_gradient(relaxed, weights.parameters, outputs.activations, losses, abar, create_graph)
    del outputs
    momenta, parameters = {}, {}
    with torch.set_grad_enabled(create_graph):
        for name, value in weights.parameters.items():
            step = gradient[name].add(value, alpha=inner.weight_decay)
            momenta[name] = step.add(weights.momenta[name], alpha=inner.momentum)
            parameters[name] = value.sub(momenta[name], alpha=lr)
    if not create_graph:
        parameters = {name: value.requires_grad_() for name, value in parameters.items()}
    values = torch.stack([loss.detach() for loss in losses])
    if not torch.isfinite(values).all():
        layer = int((~torch.isfinite(values)).nonzero()[0]) + 1
        raise SedonaError(
            f"the loss of layer {layer} of {len(losses)} is {values[layer - 1]:g}; lower the rate ({lr:g})"
        )
    return Weights(parameters, momenta, weights.buffers), values


def outer_loss(
    relaxed: RelaxedNetwork,
    weights: Weights,
    alpha: Tensor,
    beta: Tensor,
    inner_batches: Sequence[Batch],
    outer_batch: Batch,
    lr: float,
    inner: InnerConfig,
    objective: str = "validation",
    backend: str = "functional",
    create_graph: bool = True,
) -> Tensor:
    """The outer loss as a function of alpha and beta, differentiable if `create_graph`.

    Arguments as in `hypergradient`; a scalar tensor.
    """
    choose(objective, OBJECTIVES, "objective")
    choose(backend, BACKENDS, "backend")
    relax.check_decisions(relaxed, alpha, beta)
    if len(inner_batches) != inner.steps:
        raise SedonaError(f"{len(inner_batches)} inner batches for {inner.steps} inner steps: one each is needed")
    abar, bbar = alpha.softmax(1), beta.softmax(1)
    # The released objective stops one step earlier and looks at the batch of the step that it leaves out.
    unrolled = inner_batches if objective == "validation" else inner_batches[:-1]
    unroll = _unroll_functional if backend == "functional" else _unroll_higher
    parameters = unroll(relaxed, weights, abar, bbar, unrolled, lr, inner, create_graph)
    scratch = {name: value.clone() for name, value in weights.buffers.items()}
    if objective == "released":
        images, labels = inner_batches[-1]
        outputs = relax.forward(relaxed, parameters, scratch, images, abar, bbar, inner.head_scaling)
        value = relax.mixture_loss(relax.local_losses(outputs, labels, inner.loss), abar)
    else:
        images, labels = outer_batch
        outputs = relax.forward(relaxed, parameters, scratch, images, abar, None)
        value = inner.loss(outputs.scores[-1], labels)
    if not torch.isfinite(value.detach()):
        raise SedonaError(
            f"the outer loss is {value.item():g} after {inner.steps} inner steps; lower the rate ({lr:g})"
        )
    return value


def hypergradient(
    relaxed: RelaxedNetwork,
    weights: Weights,
    alpha: Tensor,
    beta: Tensor,
    inner_batches: Sequence[Batch],
    outer_batch: Batch,
    lr: float,
    inner: InnerConfig,
    objective: str = "validation",
    backend: str = "functional",
) -> Hypergradient:
    """The gradient of Eq. 7 through T inner steps.

    Args:
        relaxed: the network's structure; its own weights and buffers are neither read nor changed.
        weights: (theta, phi) to start from, with momenta; not changed.
        alpha, beta: (L-1, 2) and (L-1, M).
        inner_batches: T training batches.
        outer_batch: a validation batch (not used by objective "released").
        lr: learning rate of the inner steps.
        inner: T, momentum, weight decay, loss.
        objective: "validation" (Eq. 7) or "released".
        backend: "functional" or "higher".

    Raises:
        SedonaError: unknown objective or backend, wrong shapes or number of batches, a loss that is not finite.
    """
    alpha = alpha.detach().requires_grad_()
    beta = beta.detach().requires_grad_()
    value = outer_loss(
        relaxed, weights, alpha, beta, inner_batches, outer_batch, lr, inner, objective, backend, create_graph=True
    )
    d_alpha, d_beta = torch.autograd.grad(value, [alpha, beta])
    return Hypergradient(d_alpha, d_beta, value.item())


def _unroll_functional(
    relaxed: RelaxedNetwork,
    weights: Weights,
    abar: Tensor,
    bbar: Tensor,
    batches: Sequence[Batch],
    lr: float,
    inner: InnerConfig,
    create_graph: bool,
) -> Tensors:
    """w_T by repeated `inner_step`; the graph of all steps is kept if `create_graph`."""
    weights = Weights(
        {name: value.detach().requires_grad_() for name, value in weights.parameters.items()},
        weights.momenta,
        {name: value.clone() for name, value in weights.buffers.items()},
    )
    for batch in batches:
        weights, _ = inner_step(relaxed, weights, abar, bbar, batch, lr, inner, create_graph)
    return weights.parameters


def _unroll_higher(
    relaxed: RelaxedNetwork,
    weights: Weights,
    abar: Tensor,
    bbar: Tensor,
    batches: Sequence[Batch],
    lr: float,
    inner: InnerConfig,
    create_graph: bool,
) -> Tensors:
    """w_T as `higher` unrolls it: patched module, differentiable SGD, the mixed gradient by `grad_callback`.

    The callback replaces the gradients that `higher` computes, so the loss it is given may be any: a zero here.
    """
    import higher

    module = copy.deepcopy(relaxed)
    module.load_state_dict({**weights.parameters, **weights.buffers})
    names = [name for name, _ in module.named_parameters()]
    optimizer = torch.optim.SGD(module.parameters(), lr, momentum=inner.momentum, weight_decay=inner.weight_decay)
    for name, parameter in module.named_parameters():
        optimizer.state[parameter]["momentum_buffer"] = weights.momenta[name].clone()
    with higher.innerloop_ctx(module, optimizer, track_higher_grads=create_graph) as (fast, steps):
        for images, labels in batches:
            parameters = dict(zip(names, fast.fast_params, strict=True))
            scales = 1 / (abar[:, 0].detach() + 1e-5) if inner.head_scaling == "released" else None
            outputs = fast(images, bbar, scales)
            losses = relax.local_losses(outputs, labels, inner.loss)
            gradient = relax.mixed_gradient(module, parameters, outputs.activations, losses, abar, create_graph)
            zero = 0 * fast.fast_params[0].sum()
            steps.step(zero, grad_callback=lambda _, mixed=gradient: [mixed[name] for name in names])
        return dict(zip(names, fast.fast_params, strict=True))
