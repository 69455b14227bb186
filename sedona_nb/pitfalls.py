"""Three shorter ways to write the mixed gradient (Eq. 4), and how each of them goes wrong.

All put the shares abar inside the graph and call backward once on the sum of the losses. Notebook 03 and the tests
compute their errors; nothing else uses them.

- "scaled_backward": an identity whose backward multiplies by s. The gradient is right. Differentiated once more
  (the outer level), it is wrong without a warning: the outer backward crosses the same gates, where the derivative
  of an identity is 1 and not s.
- "detached": a * s + (a - a * s).detach(). The gradient of the weights is right, but s itself receives one.
- "divided": backward through the products of the shares, divided out afterwards. Exact on paper; in a deep network
  with decided alpha the products underflow.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.func import functional_call

from sedona_nb import relaxed as relax
from sedona_nb.bilevel import Batch, Hypergradient, InnerConfig, Problem, Tensors
from sedona_nb.errors import choose
from sedona_nb.relaxed import RelaxedNetwork

GATES = ("scaled_backward", "detached")


class ScaledBackward(torch.autograd.Function):
    """Forward: x. Backward: s times the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: Tensor) -> Tensor:
        """Any x and a scalar share -> x."""
        ctx.save_for_backward(share)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The scaled gradient for x; none for the share."""
        (share,) = ctx.saved_tensors
        return gradient * share, None


def gate(x: Tensor, share: Tensor, kind: str) -> Tensor:
    """x, through which the gradient comes back `share` times as large."""
    if kind == "scaled_backward":
        return ScaledBackward.apply(x, share)
    return x * share + (x - x * share).detach()


class GatedNetwork(nn.Module):
    """A relaxed network with a gate before each head (share abar_1) and before each next layer (abar_2)."""

    def __init__(self, relaxed: RelaxedNetwork, kind: str):
        super().__init__()
        self.relaxed = relaxed
        self.kind = choose(kind, GATES, "kind of gate")

    def forward(self, images: Tensor, abar: Tensor, bbar: Tensor) -> list[Tensor]:
        """Images (B, C, H, W), shares (L-1, 2) and (L-1, M) -> L score matrices (B, classes)."""
        scores, a = [], images
        for index, layer in enumerate(self.relaxed.layers):
            a = layer(a)
            if index < len(self.relaxed.heads):
                scores.append(self.relaxed.heads[index](gate(a, abar[index, 0], self.kind), bbar[index]))
                a = gate(a, abar[index, 1], self.kind)
        return [*scores, self.relaxed.classifier(a)]


def gated_gradient(
    relaxed: RelaxedNetwork,
    parameters: Tensors,
    buffers: Tensors,
    batch: Batch,
    abar: Tensor,
    bbar: Tensor,
    inner: InnerConfig,
    kind: str,
    create_graph: bool = False,
) -> Tensors:
    """The mixed gradient by one backward through gates; by parameter name, in the order of `parameters`."""
    images, labels = batch
    tensors = {f"relaxed.{name}": value for name, value in {**parameters, **buffers}.items()}
    scores = functional_call(GatedNetwork(relaxed, kind), tensors, (images, abar, bbar))
    total = torch.stack([inner.loss(part, labels) for part in scores]).sum()
    return dict(zip(parameters, grad(total, list(parameters.values()), create_graph=create_graph), strict=True))


def gated_hypergradient(problem: Problem, kind: str) -> Hypergradient:
    """The validation hypergradient of `bilevel` as it comes out when the inner steps use gates."""
    relaxed, weights, inner = problem.relaxed, problem.weights, problem.inner
    alpha, beta = problem.alpha.detach().requires_grad_(), problem.beta.detach().requires_grad_()
    abar, bbar = alpha.softmax(1), beta.softmax(1)
    parameters = {name: value.detach().requires_grad_() for name, value in weights.parameters.items()}
    momenta, buffers = dict(weights.momenta), {name: value.clone() for name, value in weights.buffers.items()}
    for batch in problem.inner_batches:
        field = gated_gradient(relaxed, parameters, buffers, batch, abar, bbar, inner, kind, create_graph=True)
        for name in parameters:
            step = field[name] + inner.weight_decay * parameters[name]
            momenta[name] = inner.momentum * momenta[name] + step
            parameters[name] = parameters[name] - problem.lr * momenta[name]
    images, labels = problem.outer_batch
    scores = relax.forward(relaxed, parameters, buffers, images, abar, None).scores[-1]
    value = inner.loss(scores, labels)
    return Hypergradient(*grad(value, [alpha, beta]), value.item())


def divided_gradient(
    relaxed: RelaxedNetwork,
    parameters: Tensors,
    losses: list[Tensor],
    abar: Tensor,
) -> Tensors:
    """The mixed gradient as the gradient of sum_l c_l loss_l, each part divided by its product of shares.

    c_l = abar_1,l prod_{j<l} abar_2,j (and without abar_1 for the classifier's loss).
    """
    total = relax.mixture_loss(losses, abar)
    gradients = dict(zip(parameters, grad(total, list(parameters.values())), strict=True))
    groups = relax.parameter_names(relaxed)
    ones = torch.ones(1, dtype=abar.dtype, device=abar.device)
    reach = torch.cat([ones, abar[:, 1].cumprod(0)])  # prod_{j<l} abar_2,j, (L,)
    for index, names in enumerate(groups.layers):
        gradients.update({name: gradients[name] / reach[index] for name in names})
    for index, names in enumerate(groups.heads):
        gradients.update({name: gradients[name] / (abar[index, 0] * reach[index]) for name in names})
    gradients.update({name: gradients[name] / reach[-1] for name in groups.classifier})
    return gradients
