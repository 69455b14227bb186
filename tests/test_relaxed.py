"""The mixed gradient against gradients computed by hand from Jacobians, and its three pitfalls."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from toys import float64, relative, toy_batch, toy_relaxed, toy_weights

from sedona_nb import pitfalls
from sedona_nb.bilevel import InnerConfig, Problem, hypergradient
from sedona_nb.errors import SedonaError
from sedona_nb.heads import MixedHead, build_head
from sedona_nb.layered import LayeredNetwork
from sedona_nb.losses import cross_entropy
from sedona_nb.relaxed import RelaxedNetwork, check_decisions, forward, local_losses, mixed_gradient, mixture_loss

DECISIONS = [(0.0, 0), (0.5, 1), (2.0, 2), (6.0, 3)]  # (spread, seed): undecided, mild, clear, nearly binary


def decisions(relaxed: RelaxedNetwork, spread: float, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = relaxed.num_layers - 1
    alpha = spread * torch.randn(rows, 2, generator=generator)
    return alpha, spread * torch.randn(rows, relaxed.num_heads, generator=generator)


def field(relaxed, weights, batch, abar, bbar):
    outputs = forward(relaxed, weights.parameters, dict(weights.buffers), batch[0], abar, bbar)
    losses = local_losses(outputs, batch[1], cross_entropy)
    return mixed_gradient(relaxed, weights.parameters, outputs.activations, losses, abar), losses


def by_hand(relaxed: RelaxedNetwork, batch, alpha: Tensor, beta: Tensor) -> dict[str, Tensor]:
    """Eqs. 3-6 with full Jacobian matrices, one layer at a time; only single layers are ever differentiated."""
    images, labels = batch
    activations = [images]
    for layer in relaxed.layers:
        activations.append(layer(activations[-1]).detach())
    expected: dict[str, Tensor] = {}

    def jacobians(module: nn.Module, function, a: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """d function / d a and d function / d parameters as matrices with a row an output number."""
        parameters = dict(module.named_parameters())

        def flat(a: Tensor, *values: Tensor) -> Tensor:
            return function(dict(zip(parameters, values, strict=True)), a).reshape(-1)

        first, *others = torch.autograd.functional.jacobian(flat, (a, *parameters.values()))
        return first.flatten(1), {n: j.flatten(1) for n, j in zip(parameters, others, strict=True)}

    def top(values, a):
        return cross_entropy(functional_call(relaxed.classifier, values, a), labels)

    row, of_parameters = jacobians(relaxed.classifier, top, activations[-1])
    delta = row[0]  # delta^(L), flattened
    expected.update({f"classifier.{n}": j[0] for n, j in of_parameters.items()})
    for index in range(relaxed.num_layers - 1, -1, -1):
        layer = relaxed.layers[index]
        matrix, of_parameters = jacobians(
            layer, lambda v, a, m=layer: functional_call(m, v, a), activations[index]
        )
        expected.update({f"layers.{index}.{n}": delta @ j for n, j in of_parameters.items()})  # Eq. 5
        if index == 0:
            return expected
        shares = torch.exp(beta[index - 1]) / torch.exp(beta[index - 1]).sum()

        def local(values, a, head=relaxed.heads[index - 1], shares=shares):
            parts = [
                functional_call(
                    one,
                    {n.removeprefix(f"heads.{m}."): v for n, v in values.items() if n.startswith(f"heads.{m}.")},
                    a,
                )
                for m, one in enumerate(head.heads)
            ]
            return cross_entropy(sum(s * part for s, part in zip(shares, parts, strict=True)), labels)  # Eq. 3

        row, of_parameters = jacobians(relaxed.heads[index - 1], local, activations[index])
        expected.update({f"heads.{index - 1}.{n}": j[0] for n, j in of_parameters.items()})  # Eq. 6, unscaled
        keep = torch.exp(alpha[index - 1]) / torch.exp(alpha[index - 1]).sum()
        delta = keep[0] * row[0] + keep[1] * (delta @ matrix)  # Eq. 4


@pytest.mark.parametrize("kind", ["vgg", "resnet"])
@pytest.mark.parametrize(("spread", "seed"), DECISIONS)
def test_mixed_gradient_equals_jacobians_by_hand(kind, spread, seed):
    with float64():
        relaxed = toy_relaxed(kind).train()
        generator = torch.Generator().manual_seed(seed)
        weights, batch = toy_weights(relaxed, generator), toy_batch(generator, 4)
        alpha, beta = decisions(relaxed, spread, seed)
        found, _ = field(relaxed, weights, batch, alpha.softmax(1), beta.softmax(1))
        expected = by_hand(relaxed, batch, alpha, beta)
    assert set(found) == set(expected)
    for name in found:
        scale = expected[name].norm()
        assert (found[name].flatten() - expected[name]).norm() <= 1e-10 * scale + 1e-13, name


def test_head_gradient_does_not_depend_on_alpha():
    """Eq. 6: heads learn at full strength however little their layer listens to them."""
    with float64():
        relaxed = toy_relaxed("vgg").train()
        generator = torch.Generator().manual_seed(0)
        weights, batch = toy_weights(relaxed, generator), toy_batch(generator)
        beta = torch.zeros(3, 4).softmax(1)
        fields = [
            field(relaxed, weights, batch, a, beta)[0]
            for a in (torch.tensor([[1e-6, 1 - 1e-6]] * 3), torch.tensor([[0.9, 0.1]] * 3))
        ]
    heads = [name for name in fields[0] if name.startswith("heads")]
    assert heads
    for name in heads:
        torch.testing.assert_close(fields[0][name], fields[1][name], rtol=1e-12, atol=0)
    assert relative(fields[0]["layers.0.0.weight"], fields[1]["layers.0.0.weight"]) > 0.1


def test_extreme_shares_are_backpropagation_and_local_learning():
    with float64():
        relaxed = toy_relaxed("resnet").train()
        generator = torch.Generator().manual_seed(1)
        weights, batch = toy_weights(relaxed, generator), toy_batch(generator)
        bbar = torch.zeros(3, 4).softmax(1)
        backprop, losses = field(relaxed, weights, batch, torch.tensor([[0.0, 1.0]] * 3), bbar)
        outputs = forward(relaxed, weights.parameters, dict(weights.buffers), batch[0], backprop, bbar)
        trunk = [name for name in weights.parameters if not name.startswith("heads")]
        plain = torch.autograd.grad(
            cross_entropy(outputs.scores[-1], batch[1]), [weights.parameters[n] for n in trunk]
        )
        for name, wanted in zip(trunk, plain, strict=True):
            torch.testing.assert_close(backprop[name], wanted, rtol=1e-10, atol=1e-14)


def as_released(relaxed: RelaxedNetwork, batch, abar: Tensor, bbar: Tensor) -> dict[str, Tensor]:
    """The released code in a few lines: one scalar, one backward pass, blocks divided by the shares below them."""
    images, labels = batch
    a, losses = images, []
    for layer, mixed, row, shares in zip(relaxed.layers, relaxed.heads, abar, bbar, strict=False):
        a = layer(a)
        s = (1 / (row[0] + 1e-5)).detach()
        scores = sum(share * head(a / s) for share, head in zip(shares, mixed.heads, strict=True))
        losses.append(cross_entropy(s * scores, labels))
    total = cross_entropy(relaxed.classifier(relaxed.layers[-1](a)), labels)
    for loss, row in zip(reversed(losses), abar.flip(0), strict=True):
        total = row[0] * loss + row[1] * total
    names, values = zip(*relaxed.named_parameters(), strict=True)
    found = dict(zip(names, torch.autograd.grad(total, values), strict=True))
    for name in found:
        block = relaxed.num_layers - 1 if name.startswith("classifier") else int(name.split(".")[1])
        found[name] = found[name] / abar[:block, 1].prod()
    return found


@pytest.mark.parametrize("kind", ["vgg", "resnet"])
@pytest.mark.parametrize(("spread", "seed"), DECISIONS)
def test_released_head_scaling_is_the_released_codes_gradient(kind, spread, seed):
    with float64():
        relaxed = toy_relaxed(kind).train()
        generator = torch.Generator().manual_seed(seed)
        weights, batch = toy_weights(relaxed, generator), toy_batch(generator, 4)
        alpha, beta = decisions(relaxed, spread, seed)
        abar, bbar = alpha.softmax(1), beta.softmax(1)
        outputs = forward(relaxed, weights.parameters, dict(weights.buffers), batch[0], abar, bbar, "released")
        losses = local_losses(outputs, batch[1], cross_entropy)
        found = mixed_gradient(
            relaxed, weights.parameters, outputs.activations, losses, abar, head_scaling="released"
        )
        expected = as_released(relaxed, batch, abar, bbar)
    assert set(found) == set(expected)
    for name in found:
        assert (found[name] - expected[name]).norm() <= 1e-10 * expected[name].norm() + 1e-13, name


def test_what_the_released_trick_does_to_a_head():
    """Without BatchNorm it cancels itself, with BatchNorm it multiplies the scores and attenuates nothing."""
    share = 0.1
    s = 1 / (share + 1e-5)
    with float64():
        generator = torch.Generator().manual_seed(3)
        maps = torch.randn(64, 16, 8, 8, generator=generator).requires_grad_()
        labels = torch.randint(10, (64,), generator=generator)
        plain = nn.Sequential(
            nn.Conv2d(16, 16, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10, bias=False)
        )
        heads = {"plain": plain, "batch norm": build_head("aux1", 16, 8, 10, width=1 / 16, seed=0)}
        ratios = {}
        for name, head in heads.items():
            sizes = []
            for factor, scores in ((1, head(maps)), (share, s * head(maps / s))):
                loss = factor * cross_entropy(scores, labels)
                *weights, activations = torch.autograd.grad(loss, [*head.parameters(), maps])
                sizes.append((scores, torch.cat([w.flatten() for w in weights]).norm(), activations.norm()))
            ratios[name] = [(tricked.norm() / usual.norm()).item() for usual, tricked in zip(*sizes, strict=True)]
    assert ratios["plain"] == pytest.approx([1, share, share], rel=1e-9)  # scores, weights, activations
    of_scores, of_weights, of_activations = ratios["batch norm"]
    assert of_scores == pytest.approx(s, rel=1e-2)
    assert of_weights > 0.5
    assert of_activations > 5 * share


# -- pitfalls ---------------------------------------------------------------------------------------------


def outer_problem(kind: str, steps: int) -> Problem:
    relaxed = toy_relaxed(kind).train()
    generator = torch.Generator().manual_seed(2)
    weights = toy_weights(relaxed, generator)
    alpha, beta = decisions(relaxed, 0.5, 4)
    batches = [toy_batch(generator) for _ in range(steps)]
    return Problem(relaxed, weights, alpha, beta, batches, toy_batch(generator), 0.05, InnerConfig(steps=steps))


@pytest.mark.parametrize("kind", pitfalls.GATES)
def test_gates_give_the_right_first_order_gradient(kind):
    with float64():
        problem = outer_problem("vgg", 1)
        relaxed, weights = problem.relaxed, problem.weights
        batch, shares = problem.inner_batches[0], problem.shares()
        wanted, _ = field(relaxed, weights, batch, *shares)
        found = pitfalls.gated_gradient(
            relaxed, weights.parameters, dict(weights.buffers), batch, *shares, problem.inner, kind
        )
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("network", ["vgg", "resnet"])
def test_scaled_backward_gate_gives_a_wrong_hypergradient(network):
    with float64():
        problem = outer_problem(network, 4)
        right = hypergradient(problem)
        wrong = pitfalls.gated_hypergradient(problem, "scaled_backward")
        one_step = outer_problem(network, 1)
        at_one = relative(
            pitfalls.gated_hypergradient(one_step, "scaled_backward").alpha, hypergradient(one_step).alpha
        )
    assert wrong.outer_loss == pytest.approx(right.outer_loss, rel=1e-9)  # the steps themselves are right
    assert relative(wrong.alpha, right.alpha) > 0.1
    assert relative(wrong.beta, right.beta) > 0.05
    assert at_one < 1e-9  # nothing differentiates through a gate yet: a test with T = 1 would not see the error


def test_detached_gate_leaks_a_gradient_to_its_share():
    """The loss does not depend on the shares: its value is that of the network without gates."""

    def leak(kind: str) -> float:
        problem = outer_problem(kind, 1)
        images, labels = problem.inner_batches[0]
        abar, bbar = problem.shares()
        abar.requires_grad_()
        scores = pitfalls.GatedNetwork(problem.relaxed, "detached")(images, abar, bbar)
        (gradient,) = torch.autograd.grad(cross_entropy(scores[-1], labels), abar)
        return gradient[:, 1].abs().max().item()

    with float64():
        assert leak("resnet") > 1e-3
        # In a plain chain BatchNorm makes the next layer blind to the scale of its input, which hides the leak ...
        assert leak("vgg") < 1e-4
        for kind in ("vgg", "resnet"):
            problem = outer_problem(kind, 1)
            wrong = pitfalls.gated_hypergradient(problem, "detached")
            assert relative(wrong.alpha, hypergradient(problem).alpha) > 0.1  # ... but not from the outer level


def deep_chain(layers: int) -> RelaxedNetwork:
    """Linear layers, deep enough for products of shares to leave float32's range."""
    parts = [nn.Linear(4, 4) for _ in range(layers)]
    network = LayeredNetwork("chain", parts, nn.Linear(4, 5), [(4, 1, 1)] * layers)
    return RelaxedNetwork(network, [MixedHead([nn.Linear(4, 5)]) for _ in range(layers - 1)])


def test_dividing_by_products_underflows_in_a_deep_network():
    torch.manual_seed(0)
    relaxed = deep_chain(50)
    parameters = dict(relaxed.named_parameters())
    images, labels = torch.randn(6, 4), torch.randint(5, (6,))

    def gradients(share: float):
        abar = torch.tensor([[1 - share, share]] * 49)
        outputs = relaxed(images, torch.ones(49, 1))
        losses = local_losses(outputs, labels, cross_entropy)
        right = mixed_gradient(relaxed, parameters, outputs.activations, losses, abar)
        outputs = relaxed(images, torch.ones(49, 1))
        losses = local_losses(outputs, labels, cross_entropy)
        return right, pitfalls.divided_gradient(relaxed, parameters, losses, abar)

    right, divided = gradients(0.5)  # as in pretraining: the products are powers of two and do no harm
    for name in right:
        torch.testing.assert_close(divided[name], right[name], rtol=1e-4, atol=1e-8)
    right, divided = gradients(0.05)  # 0.05^49 is 1e-64
    assert all(torch.isfinite(value).all() for value in right.values())
    assert not all(torch.isfinite(value).all() for value in divided.values())


def test_mixture_loss_is_the_sum_with_products_of_shares():
    abar = torch.tensor([[0.3, 0.7], [0.6, 0.4]])
    losses = [torch.tensor(2.0), torch.tensor(3.0), torch.tensor(5.0)]
    assert mixture_loss(losses, abar).item() == pytest.approx(0.3 * 2 + 0.7 * (0.6 * 3 + 0.4 * 5))


def test_decisions_of_the_wrong_shape_are_refused():
    relaxed = toy_relaxed("vgg")
    with pytest.raises(SedonaError, match=r"alpha has shape \(4, 2\); this network needs \(3, 2\)"):
        check_decisions(relaxed, torch.zeros(4, 2), torch.zeros(3, 4))
    with pytest.raises(SedonaError, match=r"beta has shape \(3, 3\)"):
        check_decisions(relaxed, torch.zeros(3, 2), torch.zeros(3, 3))
    with pytest.raises(SedonaError, match="beta holds numbers that are not finite"):
        check_decisions(relaxed, torch.zeros(3, 2), torch.full((3, 4), float("nan")))
