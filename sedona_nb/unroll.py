"""The hypergradient by unrolling: T inner steps as one graph, differentiated from the outer loss to the decisions.

Memory grows with T, since the graph of every step is kept. "functional" repeats `bilevel.inner_step`; "higher"
takes the same steps with the library that the paper used. `bilevel.hypergradient` checks a problem and then calls
one of the two.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sedona_nb import relaxed as relax
from sedona_nb.bilevel import (
    Batch,
    Hypergradient,
    Problem,
    Tensors,
    Weights,
    check_problem,
    inner_step,
    loss_after_steps,
    unrolled_batches,
)

# (problem, batches, abar, bbar, create_graph) -> w_T, by name
Unroll = Callable[[Problem, Sequence[Batch], Tensor, Tensor, bool], Tensors]


def functional_hypergradient(problem: Problem, objective: str) -> Hypergradient:
    """`bilevel.hypergradient` with torch.func alone: the reference."""
    return _hypergradient(problem, objective, _unroll_functional)


def higher_hypergradient(problem: Problem, objective: str) -> Hypergradient:
    """`bilevel.hypergradient` with the library `higher`: an oracle for the others."""
    return _hypergradient(problem, objective, _unroll_higher)


def outer_loss(problem: Problem, objective: str = "validation", create_graph: bool = True) -> Tensor:
    """The outer loss as a function of alpha and beta, a scalar; differentiable if `create_graph`.

    Raises:
        SedonaError: unknown objective, wrong shapes or number of batches, a loss that is not finite.
    """
    check_problem(problem, objective)
    return _outer_loss(problem, objective, _unroll_functional, create_graph)


def _outer_loss(problem: Problem, objective: str, unroll: Unroll, create_graph: bool) -> Tensor:
    abar, bbar = problem.shares()
    parameters = unroll(problem, unrolled_batches(problem, objective), abar, bbar, create_graph)
    return loss_after_steps(problem, objective, parameters, abar, bbar)


def _hypergradient(problem: Problem, objective: str, unroll: Unroll) -> Hypergradient:
    alpha = problem.alpha.detach().requires_grad_()
    beta = problem.beta.detach().requires_grad_()
    value = _outer_loss(replace(problem, alpha=alpha, beta=beta), objective, unroll, create_graph=True)
    d_alpha, d_beta = torch.autograd.grad(value, [alpha, beta])
    return Hypergradient(d_alpha, d_beta, value.item())


def _unroll_functional(
    problem: Problem, batches: Sequence[Batch], abar: Tensor, bbar: Tensor, create_graph: bool
) -> Tensors:
    """w_T by repeated `inner_step`; the graph of all steps is kept if `create_graph`."""
    weights = Weights(
        {name: value.detach().requires_grad_() for name, value in problem.weights.parameters.items()},
        problem.weights.momenta,
        {name: value.clone() for name, value in problem.weights.buffers.items()},
    )
    for batch in batches:
        weights, _ = inner_step(
            problem.relaxed, weights, abar, bbar, batch, problem.lr, problem.inner, create_graph
        )
    return weights.parameters


def _unroll_higher(
    problem: Problem, batches: Sequence[Batch], abar: Tensor, bbar: Tensor, create_graph: bool
) -> Tensors:
    """w_T as `higher` unrolls it: patched module, differentiable SGD, the mixed gradient by `grad_callback`.

    The callback replaces the gradients that `higher` computes, so the loss it is given may be any: a zero here.
    """
    import higher

    weights, inner = problem.weights, problem.inner
    module = copy.deepcopy(problem.relaxed)
    module.load_state_dict({**weights.parameters, **weights.buffers})
    names = [name for name, _ in module.named_parameters()]
    optimizer = torch.optim.SGD(
        module.parameters(), problem.lr, momentum=inner.momentum, weight_decay=inner.weight_decay
    )
    for name, parameter in module.named_parameters():
        optimizer.state[parameter]["momentum_buffer"] = weights.momenta[name].clone()
    with higher.innerloop_ctx(module, optimizer, track_higher_grads=create_graph) as (fast, steps):
        for images, labels in batches:
            parameters = dict(zip(names, fast.fast_params, strict=True))
            scales = 1 / (abar[:, 0].detach() + 1e-5) if inner.head_scaling == "released" else None
            outputs = fast(images, bbar, scales)
            losses = relax.local_losses(outputs, labels, inner.loss)
            gradient = relax.mixed_gradient(
                module, parameters, outputs.activations, losses, abar, create_graph, inner.head_scaling
            )
            zero = 0 * fast.fast_params[0].sum()
            steps.step(zero, grad_callback=lambda _, mixed=gradient: [mixed[name] for name in names])
        return dict(zip(names, fast.fast_params, strict=True))
