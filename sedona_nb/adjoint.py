"""The hypergradient by an adjoint recursion: no graph of the inner steps, memory that does not grow with them.

The inner steps u <- mu u + G(w) + wd w, w <- w - lr u run forward without a graph; only the weights w_t stay.
Then, with lam = d outer_loss / d w_T and lam_u = 0, from the last step to the first:

    p = lam_u - lr lam,        S_t = <G(w_t, alpha, beta; batch_t), p>
    d abar += dS_t / d abar,   d bbar += dS_t / d bbar
    lam <- lam + wd p + dS_t / d w,        lam_u <- mu p

S_t is a directional derivative, so one pass that carries tangents gives it, and one ordinary backward pass
through that gives everything above (`lean`). At the first step only the derivatives to abar and bbar are needed,
and S_t is linear in each share: the cotangents of the forward phase and a tangent pass are enough, no second
order.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from sedona_nb import relaxed as relax
from sedona_nb.bilevel import (
    Batch,
    Hypergradient,
    InnerConfig,
    Problem,
    Weights,
    check_losses,
    check_outer_loss,
    unrolled_batches,
)
from sedona_nb.errors import SedonaError
from sedona_nb.lean.program import Program
from sedona_nb.lean.trajectory import IN_MEMORY, Trajectory
from sedona_nb.losses import smoothed_targets


def adjoint_hypergradient(problem: Problem, objective: str, program: Program | None = None) -> Hypergradient:
    """`bilevel.hypergradient` by the recursion of this module's docstring.

    Args:
        problem: a checked problem, see `bilevel.hypergradient`.
        objective: "validation" or "released".
        program: of `problem.relaxed` and these pictures, if there is one already: it keeps its memory.

    Raises:
        SedonaError: a layer that `lean` has no node for, or a loss that is not finite (which layer, which step).
    """
    inner, lr, weights = problem.inner, problem.lr, problem.weights
    abar, bbar = (share.detach() for share in problem.shares())
    shares = abar, bbar, head_scales(abar, inner)
    program = program or Program(problem.relaxed, tuple(problem.inner_batches[0][0].shape[1:]))
    w, u = program.layout.pack(weights.parameters), program.layout.pack(weights.momenta)
    batches = [(images, smoothed(labels, program, inner, w)) for images, labels in problem.inner_batches]
    steps = len(unrolled_batches(problem, objective))
    trajectory = Trajectory()
    cotangents = None
    for t in range(steps):
        free = trajectory.push(w)
        if free is not None and t > IN_MEMORY:  # the first vector is the caller's
            program.recycle(free)
        field = program.mixed_gradient(w, *batches[t], *shares, keep_cotangents=t == 0)
        if t == 0:
            cotangents = program.take_cotangents()
        try:
            check_losses(field.losses, lr)
        except SedonaError as error:
            raise SedonaError(f"inner step {t + 1} of {inner.steps}: {error}") from None
        previous, u = u, field.gradient.add_(w, alpha=inner.weight_decay).add_(u, alpha=inner.momentum)
        w = torch.sub(w, u, alpha=lr, out=program.vector(w))
        if t > 0:
            program.recycle(previous)
    if objective == "validation":
        images, labels = problem.outer_batch
        value, lam = program.classifier_gradient(w, images, smoothed(labels, program, inner, w))
        to_abar, to_bbar = torch.zeros_like(abar), torch.zeros_like(bbar)
    else:
        value, lam, to_abar, to_bbar = _mixture(program, w, batches[-1], shares)
    check_outer_loss(value, problem)
    p = torch.zeros_like(lam)
    for t in reversed(range(steps)):
        p.mul_(inner.momentum).sub_(lam, alpha=lr)  # p is mu p of the step above, that is lam_u
        behind, w = w, trajectory.pop(w)
        if w is not behind:
            program.recycle(behind)
        if t > 0:
            found = program.directional(w, p, *batches[t], *shares)
            lam.add_(found.to_weights).add_(p, alpha=inner.weight_decay)
            program.recycle(found.to_weights)
        else:
            found = program.shares_only(w, p, *batches[t], *shares, cotangents)
            program.recycle(*itertools.chain(*cotangents))
        to_abar += found.to_abar
        to_bbar += found.to_bbar
    program.recycle(lam, *([u] if steps else []))
    return Hypergradient(_through_softmax(abar, to_abar), _through_softmax(bbar, to_bbar), value.item())


def inner_step(
    program: Program,
    weights: Weights,
    abar: Tensor,
    bbar: Tensor,
    batch: Batch,
    lr: float,
    inner: InnerConfig,
    overwrite: bool = False,
) -> tuple[Weights, Tensor]:
    """One step of Eqs. 5-6; as `bilevel.inner_step`, of which it is the fast twin.

    With `overwrite` the new weights take the place of the given ones where those are already views of one vector
    (a chain of steps, nobody else reading): no fresh memory is needed.

    Returns:
        the new weights, whose tensors are views of one vector (the given object where that was overwritten), and
        the L losses before the step, (L,). Running statistics are written into `weights.buffers`.

    Raises:
        SedonaError: a loss that is not finite (which layer).
    """
    layout = program.layout
    w, u = (layout.pack(part, copy=not overwrite) for part in (weights.parameters, weights.momenta))
    images, labels = batch
    targets = smoothed(labels, program, inner, w)
    field = program.mixed_gradient(w, images, targets, abar, bbar, head_scales(abar, inner))
    check_losses(field.losses, lr)
    layout.update_statistics(weights.buffers, field.statistics)
    torch._fused_sgd_(
        [w],
        [field.gradient],
        [u],
        weight_decay=inner.weight_decay,
        momentum=inner.momentum,
        lr=lr,
        dampening=0.0,
        nesterov=False,
        maximize=False,
        is_first_step=False,
    )
    program.recycle(field.gradient)
    if overwrite and layout.packed(weights.parameters) and layout.packed(weights.momenta):
        return weights, field.losses
    return Weights(layout.unpack(w), layout.unpack(u), weights.buffers), field.losses


def head_scales(abar: Tensor, inner: InnerConfig) -> Tensor | None:
    """The factors on the heads' scores under `head_scaling` "released", (L-1,); see `relaxed.forward`."""
    return 1 / (abar[:, 0] + 1e-5) if inner.head_scaling == "released" else None


def smoothed(labels: Tensor, program: Program, inner: InnerConfig, like: Tensor) -> Tensor:
    """Targets of label smoothing, (B, classes), in the dtype of `like`."""
    return smoothed_targets(labels, program.classes, inner.smoothing, inner.convention, like.dtype)


def _mixture(program: Program, w: Tensor, batch: Batch, shares: tuple) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The mixture of all losses at w: its value and its gradients with respect to w, abar and bbar.

    The coefficient of a loss is its layer's share times the product of those that lead there (Section 3.2).
    """
    abar, bbar, scales = shares
    reach = torch.cat([abar.new_ones(1), abar[:, 1].cumprod(0)])  # prod_{j<l} abar_2,j, (L,)
    coefficients = reach * torch.cat([abar[:, 0], abar.new_ones(1)])
    field = program.mixture_gradient(w, *batch, coefficients, bbar, scales)
    with torch.enable_grad():
        leaf = abar.detach().requires_grad_()
        value = relax.mixture_loss(list(field.losses), leaf)
        (to_abar,) = torch.autograd.grad(value, [leaf])
    return value.detach(), field.gradient, to_abar, field.to_bbar


def _through_softmax(shares: Tensor, g: Tensor) -> Tensor:
    """From derivatives with respect to softmaxed rows to those with respect to the rows."""
    return shares * (g - (shares * g).sum(1, keepdim=True))
