"""Feedback alignment against backpropagation with swapped weights, and a network that computes both ways."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import CLASSES, float64, toy_network

from sedona_nb.errors import SedonaError
from sedona_nb.feedback_alignment import AlignedConv2d, AlignedLinear, align


class TwoWays(nn.Module):
    """The slow twin: forward through the weights, backward to the input through the fixed ones, by two passes."""

    def __init__(self, part: nn.Conv2d | nn.Linear):
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        own = self.part.weight

        def through(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            if isinstance(self.part, nn.Conv2d):
                return F.conv2d(x, weight, bias, self.part.stride, self.part.padding)
            return F.linear(x, weight, bias)

        fixed = through(x, self.part.backward_weight, None)
        return through(x.detach(), own, self.part.bias) + fixed - fixed.detach()


def twin_of(aligned: nn.Module) -> nn.Module:
    twin = deepcopy(aligned)
    for name, part in list(twin.named_modules()):
        if isinstance(part, AlignedConv2d | AlignedLinear):
            owner, _, last = name.rpartition(".")
            setattr(twin.get_submodule(owner), last, TwoWays(part))
    return twin


def gradients(network: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(F.cross_entropy(network(x), y), list(network.parameters())))


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, 8, 8, generator=generator, dtype=torch.float64)
    return x, torch.randint(CLASSES, (5,), generator=generator)


@pytest.mark.parametrize("kind", ["vgg", "resnet"])
def test_gradients_are_those_of_the_two_way_twin(kind):
    with float64():
        aligned = align(toy_network(kind), seed=4)
    torch.testing.assert_close(gradients(aligned, *batch()), gradients(twin_of(aligned), *batch()))


@pytest.mark.parametrize("kind", ["vgg", "resnet"])
def test_with_the_weights_themselves_it_is_backpropagation(kind):
    with float64():
        plain, aligned = toy_network(kind), align(toy_network(kind), seed=4)
    assert torch.equal(plain(batch()[0]), aligned(batch()[0]))
    wanted = gradients(plain, *batch())
    assert not torch.allclose(gradients(aligned, *batch())[0], wanted[0])
    for part in aligned.modules():
        if isinstance(part, AlignedConv2d | AlignedLinear):
            part.backward_weight.copy_(part.weight.detach())
    torch.testing.assert_close(gradients(aligned, *batch()), wanted)


def test_backward_pass_does_not_see_the_forward_weights():
    """One layer's weights are altered such that its output stays; the error below it must stay, too."""
    with float64():
        network = align(nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3)), seed=0)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 6, generator=generator, dtype=torch.float64)
    error = torch.randn(1, 3, generator=generator, dtype=torch.float64)

    def below() -> Tensor:
        hidden = network[0](x).detach().requires_grad_()
        return torch.autograd.grad(network[1](hidden), hidden, error)[0]

    before = below()
    torch.testing.assert_close(before, error @ network[1].backward_weight)
    with torch.no_grad():
        network[1].weight.mul_(-3.0).add_(0.5)
    assert torch.equal(below(), before)
    with torch.no_grad():
        network[1].backward_weight.mul_(2.0)
    torch.testing.assert_close(below(), 2 * before)


def test_backward_weights_are_fixed_seeded_and_saved():
    with float64():
        one, again, other = (align(toy_network("vgg"), seed) for seed in (1, 1, 2))
    fixed = {name: value for name, value in one.state_dict().items() if name.endswith("backward_weight")}
    weights = [part for part in one.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert len(fixed) == len(weights) == 7
    assert all(torch.equal(again.state_dict()[name], value) for name, value in fixed.items())
    assert not any(torch.equal(other.state_dict()[name], value) for name, value in fixed.items())
    assert not {id(value) for value in one.buffers()} & {id(value) for value in one.parameters()}
    plain = toy_network("vgg")
    assert [name for name, _ in one.named_parameters()] == [name for name, _ in plain.named_parameters()]
    for part in weights:
        size = part.weight[0].numel()
        assert part.backward_weight.std().item() == pytest.approx((2 / size) ** 0.5, rel=0.35)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (
            nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
            "1: padding (1, 1), mode 'reflect'; allowed:",
        ),
        (nn.Conv2d(2, 3, 3, padding="same"), "1: padding 'same', mode 'zeros'; allowed: a number of zeros"),
        (align(nn.Linear(2, 3), seed=0), "1 has backward weights already; allowed: to align it once"),
    ],
)
def test_what_cannot_be_aligned_is_refused_and_nothing_changes(part, words):
    network = nn.Sequential(nn.Linear(2, 2), part)
    with pytest.raises(SedonaError) as caught:
        align(network, seed=1)
    assert str(caught.value).startswith(words)
    assert type(network[0]) is nn.Linear


@pytest.mark.parametrize(("part", "shape"), [(nn.Linear(6, 4), (6,)), (nn.Conv2d(3, 4, 3, padding=1), (3, 5, 5))])
def test_one_picture_without_a_batch_gets_the_gradients_of_a_batch_of_one(part, shape):
    aligned = align(part.double(), seed=0)
    found = []
    for lead in ((), (1,)):
        x = torch.arange(0.0, 1.0, 1 / torch.Size(shape).numel(), dtype=torch.float64)
        x = x[: torch.Size(shape).numel()].view(*lead, *shape).requires_grad_()
        gradients = torch.autograd.grad(aligned(x).square().sum(), [x, *aligned.parameters()])
        found.append([gradients[0].view(shape), *gradients[1:]])
    torch.testing.assert_close(*found)


def test_a_channels_last_batch_in_bfloat16_trains():
    network = align(toy_network("resnet"), seed=0).float().to(memory_format=torch.channels_last)
    x = batch()[0].float().contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(network(x).float(), batch()[1])
    loss.backward()
    assert all(p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in network.parameters())
