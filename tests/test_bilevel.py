"""The hypergradient: two backends, finite differences, and how deep each objective reaches."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from toys import float64, relative, toy_batch, toy_relaxed, toy_weights

from sedona_nb import bilevel
from sedona_nb import relaxed as relaxation
from sedona_nb.bilevel import InnerConfig, Problem, Weights, hypergradient, inner_step
from sedona_nb.errors import SedonaError
from sedona_nb.networks import build_vgg, initialize
from sedona_nb.relaxed import relax
from sedona_nb.unroll import outer_loss

LR = 0.05


def toy_problem(kind: str, steps: int, seed: int = 0) -> Problem:
    relaxed = toy_relaxed(kind).train()
    generator = torch.Generator().manual_seed(seed)
    weights = toy_weights(relaxed, generator)
    rows = relaxed.num_layers - 1
    alpha = 0.5 * torch.randn(rows, 2, generator=generator)
    beta = 0.5 * torch.randn(rows, 4, generator=generator)
    # 16 pictures: with 6, on maps of one pixel, BatchNorm lets rounding errors grow by a factor of 10^5.
    batches = [toy_batch(generator, 16) for _ in range(steps)]
    return Problem(relaxed, weights, alpha, beta, batches, toy_batch(generator, 16), LR, InnerConfig(steps=steps))


@pytest.mark.parametrize("objective", bilevel.OBJECTIVES)
@pytest.mark.parametrize("steps", [1, 3, 5])
@pytest.mark.parametrize("kind", ["vgg", "resnet"])
class TestHypergradient:
    def test_all_backends_agree(self, kind, steps, objective):
        with float64():
            task = toy_problem(kind, steps)
            functional, *others = (
                hypergradient(task, objective, name) for name in ("functional", "higher", "adjoint")
            )
        for other in others:
            assert relative(other.alpha, functional.alpha) < 1e-10
            assert relative(other.beta, functional.beta) < 1e-10
            assert other.outer_loss == pytest.approx(functional.outer_loss, rel=1e-12)

    @pytest.mark.parametrize("backend", ["adjoint", "higher"])
    def test_backends_agree_on_the_released_heads(self, kind, steps, objective, backend):
        with float64():
            task = toy_problem(kind, steps)
            task = replace(task, inner=replace(task.inner, head_scaling="released", convention="others"))
            functional, other = (
                hypergradient(task, objective, "functional"),
                hypergradient(task, objective, backend),
            )
        assert relative(other.alpha, functional.alpha) < 1e-10
        assert relative(other.beta, functional.beta) < 1e-10

    def test_agrees_with_central_differences(self, kind, steps, objective):
        h = 1e-7  # larger steps cross kinks of the ReLUs
        with float64():
            problem = toy_problem(kind, steps, seed=1)
            found = hypergradient(problem, objective)
            generator = torch.Generator().manual_seed(9)
            for _ in range(3):
                a = torch.randn(problem.alpha.shape, generator=generator)
                b = torch.randn(problem.beta.shape, generator=generator)

                def value(t, a=a, b=b):
                    moved = replace(problem, alpha=problem.alpha + t * a, beta=problem.beta + t * b)
                    return outer_loss(moved, objective, create_graph=False).item()

                difference = (value(h) - value(-h)) / (2 * h)
                slope = ((found.alpha * a).sum() + (found.beta * b).sum()).item()
                assert slope == pytest.approx(difference, rel=5e-4)


def test_each_alpha_and_beta_alone_agrees_with_central_differences():
    """Entry by entry, so that no error can hide in a sum over directions."""
    h = 1e-7
    with float64():
        problem = toy_problem("vgg", 2, seed=3)
        found = hypergradient(problem)
        for name in ("alpha", "beta"):
            wanted = getattr(found, name)
            for entry in range(wanted.numel()):
                values = []
                for sign in (h, -h):
                    moved = getattr(problem, name).clone()
                    moved.view(-1)[entry] += sign
                    values.append(outer_loss(replace(problem, **{name: moved}), create_graph=False).item())
                difference = (values[0] - values[1]) / (2 * h)
                assert wanted.view(-1)[entry].item() == pytest.approx(difference, rel=5e-4, abs=1e-8)


def test_inner_step_is_the_step_of_torch_sgd():
    with float64():
        problem = toy_problem("resnet", 1)
        relaxed, weights, inner, batch = problem.relaxed, problem.weights, InnerConfig(), problem.inner_batches[0]
        module = copy.deepcopy(relaxed)
        module.load_state_dict({**weights.parameters, **weights.buffers})
        optimizer = torch.optim.SGD(module.parameters(), LR, inner.momentum, weight_decay=inner.weight_decay)
        shares = problem.shares()
        buffers = {name: value.clone() for name, value in weights.buffers.items()}
        outputs = relaxation.forward(relaxed, weights.parameters, buffers, batch[0], *shares)
        losses = relaxation.local_losses(outputs, batch[1], inner.loss)
        gradient = relaxation.mixed_gradient(relaxed, weights.parameters, outputs.activations, losses, shares[0])
        for name, parameter in module.named_parameters():
            optimizer.state[parameter]["momentum_buffer"] = weights.momenta[name].clone()
            parameter.grad = gradient[name]
        optimizer.step()
        stepped, values = inner_step(relaxed, weights, *shares, batch, LR, inner)
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(stepped.parameters[name], parameter, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(
            stepped.momenta[name], optimizer.state[parameter]["momentum_buffer"], rtol=1e-12, atol=1e-14
        )
    torch.testing.assert_close(values, torch.stack([loss.detach() for loss in losses]))


@pytest.mark.parametrize("backend", bilevel.BACKENDS)
def test_nothing_given_is_changed(backend):
    with float64():
        problem = toy_problem("vgg", 3)
        own = {name: value.clone() for name, value in problem.relaxed.state_dict().items()}
        given = [{name: value.detach().clone() for name, value in part.items()} for part in problem.weights]
        hypergradient(problem, "validation", backend)
    for name, value in problem.relaxed.state_dict().items():
        assert torch.equal(value, own[name]), name
    for before, part in zip(given, problem.weights, strict=True):
        assert all(torch.equal(before[name], value) for name, value in part.items())
    assert not problem.alpha.requires_grad
    assert not problem.beta.requires_grad


def depth_profile(objective: str, layers: int = 16) -> torch.Tensor:
    """log10 of |d alpha| a layer at alpha = beta = 0, in a VGG of equal layers: (layers - 1,)."""
    network = build_vgg((8,) * layers, 1.0, 5, 8, hidden=16)
    initialize(network, 0)
    relaxed = relax(network, 5, 1 / 64, seed=1).train()
    generator = torch.Generator().manual_seed(2)
    weights = toy_weights(relaxed, generator)
    weights = Weights(weights.parameters, {n: 0 * m for n, m in weights.momenta.items()}, weights.buffers)
    zeros = torch.zeros(layers - 1, 2), torch.zeros(layers - 1, 4)
    batches = [toy_batch(generator, 32) for _ in range(5)]
    problem = Problem(relaxed, weights, *zeros, batches, toy_batch(generator, 64), 0.05, InnerConfig(steps=5))
    return hypergradient(problem, objective).alpha.abs().sum(1).log10()


def slope(profile: torch.Tensor) -> float:
    """Least-squares slope a layer."""
    x = torch.arange(len(profile), dtype=profile.dtype)
    x = x - x.mean()
    return ((x * profile).sum() / x.square().sum()).item()


def test_released_objective_starves_upper_layers_and_validation_does_not():
    """The released objective carries prod_{j<l} abar_2,j = 2^-(l-1) to layer l at alpha = 0."""
    half = torch.tensor(0.5).log10().item()  # -0.301 a layer
    with float64():
        released, validation = slope(depth_profile("released")), slope(depth_profile("validation"))
    assert released == pytest.approx(half, abs=0.1)
    assert abs(validation) < 0.1


def test_wrong_requests_are_refused_in_one_line():
    with float64():
        problem = toy_problem("vgg", 1)
        with pytest.raises(SedonaError, match="unknown objective 'valid'; allowed: validation, released"):
            hypergradient(problem, objective="valid")
        with pytest.raises(SedonaError, match="unknown objective 'valid'; allowed: validation, released"):
            outer_loss(problem, objective="valid")
        with pytest.raises(SedonaError, match="unknown backend 'adjiont'"):
            hypergradient(problem, backend="adjiont")
        with pytest.raises(SedonaError, match="alpha has shape"):
            hypergradient(replace(problem, alpha=problem.alpha[:1]))
        with pytest.raises(SedonaError, match="1 inner batches for 2 inner steps"):
            hypergradient(replace(problem, inner=InnerConfig(steps=2)))
        with pytest.raises(SedonaError, match="0 inner steps: at least 1"):
            InnerConfig(steps=0)
        with pytest.raises(SedonaError, match=r"the outer loss is nan .*lower the rate"):
            hypergradient(replace(problem, lr=1e200))
        images, labels = problem.inner_batches[0]
        with pytest.raises(SedonaError, match="the loss of layer 1 of 4 is nan"):
            hypergradient(replace(problem, inner_batches=[(images * float("nan"), labels)]))


def test_on_every_device(device):
    """Float32 on the device at hand agrees with float64 on the CPU on a network that has taken some steps."""
    with float64():
        problem = toy_problem("resnet", 2)
        wanted = hypergradient(problem)

    def move(value):
        if isinstance(value, torch.Tensor):
            value = value.detach().to(device)
            return value.float() if value.is_floating_point() else value
        if isinstance(value, dict):
            return {name: move(part) for name, part in value.items()}
        return type(value)(map(move, value)) if isinstance(value, list) else tuple(map(move, value))

    there = replace(
        problem,
        relaxed=copy.deepcopy(problem.relaxed).to(device).float(),
        weights=Weights(*map(move, problem.weights)),
        **{name: move(getattr(problem, name)) for name in ("alpha", "beta", "inner_batches", "outer_batch")},
    )
    found = hypergradient(there)
    assert relative(found.alpha.double().cpu(), wanted.alpha) < 1e-2
    assert relative(found.beta.double().cpu(), wanted.beta) < 1e-2
