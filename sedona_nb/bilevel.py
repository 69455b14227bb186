"""The bilevel problem of Section 3.3: T inner steps on the weights, and the gradient of what comes out of them.

Inner level (Eqs. 5-6), SGD with momentum and weight decay as torch.optim.SGD does it:

    u <- momentum * u + G(w, alpha, beta; batch) + weight_decay * w,        w <- w - lr * u

with G the mixed gradient (`relaxed.mixed_gradient`). Outer level (Eq. 7): d outer_loss / d (alpha, beta), where

    objective "validation" (the paper):  outer_loss = loss of the classifier at w_T on a validation batch
    objective "released" (what the released code differentiates): outer_loss = the mixture of all local losses at
        w_{T-1} on the last training batch, sum_l abar_1,l prod_{j<l} abar_2,j loss_l

The backends give the same number: "adjoint", the lean one and the default; "functional" (torch.func, the
reference) and "higher" (the library the paper used, kept as an oracle), both in `unroll`. Validation uses batch
statistics in BatchNorm; no running statistics are touched.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sedona_nb import relaxed as relax
from sedona_nb.errors import SedonaError, choose
from sedona_nb.losses import cross_entropy
from sedona_nb.relaxed import RelaxedNetwork

# Backend and the function (problem, objective) -> Hypergradient that it stands for. Names and not functions: the
# modules of the backends build on this one and are imported when they are first asked for.
BACKENDS = {
    "adjoint": "sedona_nb.adjoint:adjoint_hypergradient",
    "functional": "sedona_nb.unroll:functional_hypergradient",
    "higher": "sedona_nb.unroll:higher_hypergradient",
}
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


@dataclass(frozen=True, eq=False)
class Problem:
    """One hypergradient's question: network, weights, decisions, batches, rate.

    L layers, M heads, T inner steps; nothing in it is changed by answering.

    Attributes:
        relaxed: the network's structure; its own weights and buffers are not read.
        weights: (theta, phi) to start from, with momenta.
        alpha: decisions where to cut, (L-1, 2).
        beta: decisions for heads, (L-1, M).
        inner_batches: T training batches, each images (B, C, H, W) and labels (B,).
        outer_batch: a validation batch (not used by objective "released").
        lr: learning rate of the inner steps.
        inner: T, momentum, weight decay, loss.
    """

    relaxed: RelaxedNetwork
    weights: Weights
    alpha: Tensor
    beta: Tensor
    inner_batches: Sequence[Batch]
    outer_batch: Batch
    lr: float
    inner: InnerConfig

    def shares(self) -> tuple[Tensor, Tensor]:
        """abar and bbar: softmax of alpha (L-1, 2) and beta (L-1, M)."""
        return self.alpha.softmax(1), self.beta.softmax(1)


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


def trainable(weights: Weights, device: torch.device) -> Weights:
    """A copy of `weights` on `device`, its parameters ready to be stepped."""

    def move(tensors: Tensors, grad: bool) -> Tensors:
        return {name: value.detach().to(device, copy=True).requires_grad_(grad) for name, value in tensors.items()}

    return Weights(move(weights.parameters, True), move(weights.momenta, False), move(weights.buffers, False))


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
    gradient = relax.mixed_gradient(
        relaxed, weights.parameters, outputs.activations, losses, abar, create_graph, inner.head_scaling
    )
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
    check_losses(values, lr)
    return Weights(parameters, momenta, weights.buffers), values


def check_losses(values: Tensor, lr: float) -> None:
    """Raise SedonaError if one of the L losses of a step (L,) is not finite, naming the layer."""
    if not torch.isfinite(values).all():
        layer = int((~torch.isfinite(values)).nonzero()[0]) + 1
        raise SedonaError(
            f"the loss of layer {layer} of {len(values)} is {values[layer - 1]:g}; lower the rate ({lr:g})"
        )


def check_outer_loss(value: Tensor, problem: Problem) -> None:
    """Raise SedonaError if the outer loss, a scalar, is not finite."""
    if not torch.isfinite(value.detach()):
        raise SedonaError(
            f"the outer loss is {value.item():g} after {problem.inner.steps} inner steps; "
            f"lower the rate ({problem.lr:g})"
        )


def check_problem(problem: Problem, objective: str) -> None:
    """Refuse what has no answer.

    Raises:
        SedonaError: unknown objective, wrong shapes or number of batches.
    """
    choose(objective, OBJECTIVES, "objective")
    relax.check_decisions(problem.relaxed, problem.alpha, problem.beta)
    if len(problem.inner_batches) != problem.inner.steps:
        raise SedonaError(
            f"{len(problem.inner_batches)} inner batches for {problem.inner.steps} inner steps: one each is needed"
        )


def unrolled_batches(problem: Problem, objective: str) -> Sequence[Batch]:
    """The batches of the inner steps that the objective differentiates through.

    The released objective stops one step earlier and looks at the batch of the step that it leaves out.
    """
    return problem.inner_batches if objective == "validation" else problem.inner_batches[:-1]


def loss_after_steps(problem: Problem, objective: str, parameters: Tensors, abar: Tensor, bbar: Tensor) -> Tensor:
    """The outer loss as a function of the parameters that the inner steps arrive at, and of the shares; a scalar.

    Raises:
        SedonaError: the loss is not finite.
    """
    relaxed, inner = problem.relaxed, problem.inner
    scratch = {name: value.clone() for name, value in problem.weights.buffers.items()}
    if objective == "released":
        images, labels = problem.inner_batches[-1]
        outputs = relax.forward(relaxed, parameters, scratch, images, abar, bbar, inner.head_scaling)
        value = relax.mixture_loss(relax.local_losses(outputs, labels, inner.loss), abar)
    else:
        images, labels = problem.outer_batch
        outputs = relax.forward(relaxed, parameters, scratch, images, abar, None)
        value = inner.loss(outputs.scores[-1], labels)
    check_outer_loss(value, problem)
    return value


def hypergradient(problem: Problem, objective: str = "validation", backend: str = "adjoint") -> Hypergradient:
    """The gradient of Eq. 7 through T inner steps.

    Args:
        problem: where to start, with which decisions, on which batches; not changed.
        objective: "validation" (Eq. 7) or "released".
        backend: one of `BACKENDS`.

    Raises:
        SedonaError: unknown objective or backend, wrong shapes or number of batches, a loss that is not finite.
    """
    choose(backend, BACKENDS, "backend")
    check_problem(problem, objective)
    return pkgutil.resolve_name(BACKENDS[backend])(problem, objective)
